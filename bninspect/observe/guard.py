"""What a forward writes into the user's own memory is seen before it happens, and put back after the forward.

A shadow shares the memory of the parameters, and a forward may write into them: codebooks by moving averages, clipped
weights, counters. A forward may also reach the model itself, by a global variable or a library's object. Each writing
call of torch is therefore looked at first: where it would write into memory of the user's, the values are copied. After
the forward they are put back, and the shadow goes on with memory of its own.

A look at every call costs a few microseconds, so it is taken only of models with code that is not torch's,
torchvision's or timm's. Writes that torch does not see (numpy arrays on the same memory, kernels that take addresses)
are not seen here either.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from bninspect.observe.norms import STATISTICS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

_KNOWN = ("torch.", "torchvision.", "timm.")
_TABLES = (nn.functional.embedding, nn.functional.embedding_bag)  # with max_norm they renormalise what they look up
_BY_NAME = ("out", "running_mean", "running_var", "tensor")  # the last is that of torch.nn.init
_OPERATORS = "setitem iadd isub imul itruediv ifloordiv imod ipow imatmul iand ior ixor ilshift irshift"
_IN_PLACE = frozenset(f"__{name}__" for name in _OPERATORS.split())
_NAME = "_bninspect_guard"  # of a shadow's attribute


def attach(twin: nn.Module, model: nn.Module, *, stepped: bool) -> None:
    """Guard the memory of ``model`` whenever ``twin`` runs, unless all code in it is known to write into none.

    ``stepped``: the user's own function runs it, which may be a whole step of training. Gradients are then guarded
    too, and after each forward the twin itself has its parameters as they were.
    """
    before = vars(model).get(_NAME)  # the model is a shadow itself
    if stepped or before is not None or not all(map(_is_known, model.modules())):
        vars(twin)[_NAME] = Guard(twin, model, before, stepped=stepped)


def of(twin: nn.Module) -> AbstractContextManager[Any]:
    """What a forward of this shadow runs in."""
    return vars(twin).get(_NAME) or nullcontext()


def notes(twin: nn.Module) -> tuple[str, ...]:
    """What a reader should know of the forwards of this shadow."""
    guard = vars(twin).get(_NAME)
    return guard.notes() if guard else ()


class Guard(TorchFunctionMode):
    """Entered for one forward of a shadow at a time."""

    def __init__(self, twin: nn.Module, model: nn.Module, before: Guard | None, *, stepped: bool) -> None:
        super().__init__()
        self.names: dict[str, Tensor]
        named = [*_named(model), *(_gradients(model) if stepped else ())]
        own = {name: value for name, value in named if not is_lazy(value) and not value.is_meta}
        self.names = {
            **{f"{name} of the model": value for name, value in (before.names if before else {}).items()},
            **own,
        }
        self.stepped = stepped
        self.gradients = [(value, value.grad) for value in model.parameters()] if stepped else []
        self.parameters = [value for value in twin.parameters() if not is_lazy(value)]
        self.owned = {_place(value) for value in self.names.values()}
        self.versions = {name: version_of(value) for name, value in self.names.items()}
        self.saved: dict[str, tuple[Tensor, int | None]] = {}
        self.escaped: list[str] = before.escaped if before else []
        self.lost: list[str] = before.lost if before else []

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        with unseen():
            self._settle()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        places = (0,) if kwargs.get("inplace") else _places(func)
        if places or "out" in kwargs:
            written = [args[place] for place in places if place < len(args)]
            self._save(_tensors([*written, *(kwargs.get(name) for name in _BY_NAME)]))
        elif func in _TABLES and (args[3] if len(args) > 3 else kwargs.get("max_norm")) is not None:
            self._save(_tensors([args[1] if len(args) > 1 else kwargs.get("weight")]))
        return func(*args, **kwargs)

    def _save(self, tensors: Iterable[Tensor]) -> None:
        places = {_place(tensor) for tensor in tensors} & self.owned
        for name, value in self.names.items() if places else ():
            if name not in self.saved and _place(value) in places:
                with unseen():
                    self.saved[name] = value.detach().clone(), version_of(value)

    def _settle(self) -> None:
        """Give the shadow memory of its own where it wrote, and put the user's values back; Ctrl-C waits for it."""
        interrupt: KeyboardInterrupt | None = None
        while self.saved:
            try:
                self._put_back(next(iter(self.saved)))
            except KeyboardInterrupt as error:  # values are put back before anything else
                interrupt = error
        if interrupt is not None:
            raise interrupt
        self._look_for_losses()

    def _put_back(self, name: str) -> None:
        original, (values, version) = self.names[name], self.saved[name]
        sharing = [parameter for parameter in self.parameters if _place(parameter) == _place(original)]
        with torch.no_grad():
            for parameter in () if self.stepped else sharing:
                parameter.data = parameter.data.clone()
            if not sharing and not torch.equal(original, values):
                self.escaped.append(name)
            original.data.copy_(values)
            _set_version(original, version)
        del self.saved[name]

    def _look_for_losses(self) -> None:
        for parameter, gradient in self.gradients:
            if parameter.grad is not gradient:
                parameter.grad = gradient
        for name, version in self.versions.items():
            if version_of(self.names[name]) != version:
                self.lost.append(name)
                self.versions[name] = version_of(self.names[name])

    def notes(self) -> tuple[str, ...]:
        """What a reader should know of it."""
        said = []
        if self.escaped:
            said.append(
                f"the forward reached the model itself by a way that could not be copied, and wrote into "
                f"{_listed(self.escaped)}: the values were put back, and what ran there was not measured"
            )
        if self.lost:
            said.append(
                f"the forward changed {_listed(self.lost)} of the model itself by a way that was not seen, and the "
                "values could not be put back"
            )
        return tuple(said)


def _listed(names: list[str]) -> str:
    once = list(dict.fromkeys(names))
    return ", ".join(once[:4]) + (f" and {len(once) - 4} more" if len(once) > 4 else "")


def _named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _gradients(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from ((f"the gradient of {name}", value.grad) for name, value in _named(model) if value.grad is not None)


def _is_known(module: nn.Module) -> bool:
    """Whether all that runs in a module is code of a library that writes into no parameter."""
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return module.max_norm is None
    return runs_code_of(module, _KNOWN)


def runs_code_of(module: nn.Module, packages: tuple[str, ...]) -> bool:
    """Whether nothing but code of these packages runs when a module is called, but for the modules in it."""
    attributes, kind = vars(module), type(module)
    if attributes.get("_forward_hooks") or attributes.get("_forward_pre_hooks") or "forward" in attributes:
        return False
    if isinstance(module, torch.fx.GraphModule):  # its class is torch's, its code the user's
        return False
    source = getattr(getattr(kind, "forward", None), "__module__", None) or ""
    return source.startswith(packages) and kind.__module__.startswith(packages)


@cache
def _places(func: Callable[..., Any]) -> tuple[int, ...]:
    """The positions of those arguments of a function that it writes into."""
    if func in STATISTICS:
        return STATISTICS[func], STATISTICS[func] + 1
    schema = getattr(func, "_schema", None)
    if schema is None:
        name = getattr(func, "__name__", "")
        return (0,) if name in _IN_PLACE or (name.endswith("_") and not name.endswith("__")) else ()
    infos = [argument.alias_info for argument in schema.arguments]
    return tuple(place for place, info in enumerate(infos) if info is not None and info.is_write)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _place(tensor: Tensor) -> int:
    """Where a tensor's storage lies; 0 where it has none."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0


def unseen() -> AbstractContextManager[None]:
    """Calls of torch made inside are no concern of a function mode, nor of the input's own tensor class."""
    return torch._C.DisableTorchFunction()  # noqa: SLF001  # the name that torch documents for this


def version_of(tensor: Tensor) -> int | None:
    """How often a tensor was written to; unknown of one that was made in inference mode."""
    return None if tensor.is_inference() else tensor._version  # noqa: SLF001


def _set_version(tensor: Tensor, version: int | None) -> None:
    put = getattr(torch._C._autograd, "_unsafe_set_version_counter", None)  # noqa: SLF001
    if put is not None and version is not None and tensor._version != version:  # noqa: SLF001
        put((tensor,), (version,))
