"""Run a shadow; an error that its forward raises is told by the layer that it came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from bninspect.containers import has_names, parts_of
from bninspect.errors import BNInspectError, ForwardError
from bninspect.observe import guard
from bninspect.observe.steps import fresh
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from torch import nn

    Forward = Callable[[nn.Module, Any], Any]  # the user's own: it runs the model on one step


_COLOURS = (1, 3, 4)  # channels of an image
_HINTS = (  # by words of an error
    (("argument", " given"), "an input that is taken by name: --batch-key ARGUMENT=KEY, or forward="),
    (
        ("required positional argument",),
        "a model that takes more than one tensor: --batch-key image,mask names them in order; --forward, or forward=, "
        "runs a step as the loader gave it",
    ),
    (("list of",), "a list of images: --forward, or forward=, runs a step as the loader gave it"),
)


def forward(twin: nn.Module, inputs: Sequence[Any], *, what: str, by: Forward | None = None) -> Any:
    """The forward of a shadow: on its inputs, or ``by`` the user's own function on the one step that they hold.

    Raises:
        ForwardError: the model's own code raised; the text names the innermost layer it was in.
    """
    try:
        with guard.of(twin):
            return twin(*inputs) if by is None else _stepped(twin, inputs, by)
    except BNInspectError:
        raise
    except Exception as error:
        given = f"by {_name(by)}" if by else f"on {_sizes(inputs)}"
        raise ForwardError(
            f"the forward of {printable(what)} {given} failed in {_where(error, twin, by)}: "
            f"{brief(error)}{_hint(error, inputs, by)}"
        ) from error


def _stepped(twin: nn.Module, inputs: Sequence[Any], by: Forward) -> Any:
    """What the user's function gives; it gets inputs of its own, and the modes stay as they were set."""
    modes = {id(module): module.training for module in twin.modules()}
    mode = twin.training
    output = by(twin, *map(fresh, inputs))
    if any(modes.get(id(module), module.training) != module.training for module in twin.modules()):
        raise ForwardError(
            f"{_name(by)} puts the model or a part of it into another mode, and it runs in "
            f"{'train' if mode else 'eval'} mode here: leave train() and eval() out of it (stats has --mode, mode=)"
        )
    return output


def _hint(error: Exception, inputs: Sequence[Any], by: Forward | None) -> str:
    """What would help, where that can be told from the error and the input."""
    if "does not require grad" in str(error):
        return " (nothing asks for gradients here: a step that does runs inside torch.enable_grad())"
    names = next((list(parts_of(step) or ()) for step in inputs if has_names(step)), [])
    if names and isinstance(error, (TypeError, AttributeError, KeyError)):
        return f" (a step holds {', '.join(printable(str(name), 40) for name in names[:12])})"
    shapes = [value.shape for value in inputs if isinstance(value, Tensor) and value.dim() == 4]
    if "channels" in str(error) and any(shape[3] in _COLOURS and shape[1] not in _COLOURS for shape in shapes):
        return " (channels seem to be last: permute(0, 3, 1, 2))"
    if by is None and isinstance(error, (TypeError, ValueError)):
        return next((f" ({hint})" for words, hint in _HINTS if all(word in str(error) for word in words)), "")
    return ""


def _name(by: Forward) -> str:
    return printable(getattr(by, "__name__", type(by).__name__))


def _where(error: BaseException, twin: nn.Module, by: Forward | None) -> str:
    """The innermost layer that an error came through: its path, its settings, and what it was given."""
    names = {id(module): path for path, module in twin.named_modules()}
    frame = innermost(_frames(error.__traceback__), names)
    if frame is None and by is not None:
        return "that function itself"
    layer = twin if frame is None else frame.f_locals["self"]
    leaf = next(layer.children(), None) is None
    text = printable(repr(layer) if leaf else type(layer).__name__)
    if path := names[id(layer)]:
        text = f"layer {printable(path)}, {text}"
    given = [] if frame is None else [frame.f_locals[name] for name in ("input", "x") if name in frame.f_locals]
    return f"{text}, given {_sizes(given)}" if leaf and any(isinstance(value, Tensor) for value in given) else text


def _sizes(values: Sequence[Any]) -> str:
    return ", ".join(str(list(value.shape)) for value in values if isinstance(value, Tensor))


def brief(error: BaseException, limit: int = 300) -> str:
    """An error's class and the first line of its text, safe to show."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {printable(text, limit)}" if text else type(error).__name__


def innermost(frames: Iterator[Any], names: dict[int, str]) -> Any:
    """The first frame whose ``self`` is a module of the model, innermost first."""
    return next((frame for frame in frames if id(frame.f_locals.get("self")) in names), None)


def _frames(traceback: TracebackType | None) -> Iterator[Any]:
    frames = []
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    return reversed(frames)
