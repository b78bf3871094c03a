"""Which of the things that a file or a loader gives is the input: itself, the first of a tuple, one of a dict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bninspect.containers import has_names, is_tensor, parts_of
from bninspect.errors import SourceError
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

_INPUT_NAMES = ("image", "images", "pixel_values", "x", "input", "inputs")
_DEPTH = 20


def pick(content: Any, key: str | None, shown: str) -> tuple[str | None, Any]:
    """The input among what one step of a loader holds: its name within it, and the tensor.

    Raises:
        SourceError: there is no tensor in it, or several of which ``key`` names none.
    """
    import torch

    name, tensor = choose(content, key, shown)
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        raise SourceError(f"the batch {shown} is a sparse, nested or quantized tensor: save a dense one")
    return name, tensor.detach()


def inputs(content: Any, key: str | None, shown: str) -> tuple[str | None, Any]:
    """The same where ``key`` may name several inputs, ``image,mask``: a tuple of tensors in this order.

    Raises:
        SourceError: as :func:`pick`.
    """
    if key is None or "," not in key:
        return pick(content, key, shown)
    return key, tuple(pick(content, name.strip(), shown)[1] for name in key.split(","))


def by_name(key: str, shown: str) -> Callable[[Any, Any], Any]:
    """What runs a model on the elements that ``x=pixel_values,mask`` names, as its argument x and its first.

    Raises:
        SourceError: an argument is none, or is named twice; when it runs, as :func:`pick`.
    """
    pairs = [part.strip().rpartition("=") for part in key.split(",")]
    names = [name.strip() for name, equals, _ in pairs if equals]
    if not all(name.isidentifier() for name in names) or len(set(names)) < len(names):
        raise SourceError(f"--batch-key {printable(key)} is not of the form argument=key, each argument once")

    def run(model: Any, step: Any) -> Any:
        given = [(name.strip(), pick(step, element.strip(), shown)[1]) for name, _, element in pairs]
        return model(*(value for name, value in given if not name), **{name: value for name, value in given if name})

    run.__name__ = f"--batch-key {key}"
    return run


def choose(content: Any, key: str | None, shown: str) -> tuple[str | None, Any]:
    """The input among nested dicts, lists and tuples of tensors, and its name: ``images.0`` is the first of ``images``.

    A tensor is whatever has torch's ``is_floating_point()`` and ``dim()``.

    Args:
        content: what a file or one step of a loader holds.
        key: the name of the input or of a container of it; ``None``: the first of a list or tuple, of a dict its only
            tensor, its only float tensor of three dimensions or more, or the first that is named as inputs are.
        shown: the batch's name, for errors.

    Raises:
        SourceError: there is no tensor, or several of which ``key`` names none.
    """
    if is_tensor(content):
        if key is not None:
            raise SourceError(f"--batch-key {printable(key)} was given, and {shown} holds a single tensor")
        return None, content
    if parts_of(content) is None:
        raise SourceError(f"the batch {shown} holds a {type(content).__name__}: a tensor was expected")
    path = [] if key is None else _named(content, key, shown)
    for name in path:
        content = _parts(content)[name]
    while not is_tensor(content):
        if len(path) > _DEPTH:
            raise SourceError(f"the batch {shown} is nested deeper than {_DEPTH} containers")
        name = _next(content, shown)
        path.append(name)
        content = _parts(content)[name]
    return ".".join(path), content


def _parts(content: Any) -> dict[str, Any]:
    """The tensors and containers in a container, by name."""
    return {str(name): part for name, part in (parts_of(content) or {}).items() if is_tensor(part) or parts_of(part)}


def _named(content: Any, key: str, shown: str) -> list[str]:
    """``key`` as the names that lead to it: a name may have dots itself."""
    parts = _parts(content)
    if key in parts:
        return [key]
    for name, part in parts.items():
        if key.startswith(f"{name}.") and parts_of(part):
            return [name, *_named(part, key[len(name) + 1 :], shown)]
    raise SourceError(f"{shown} holds no tensor {printable(key)!r}: it holds {_list(parts)}")


def _next(content: Any, shown: str) -> str:
    parts = _parts(content)
    tensors = {name: part for name, part in parts.items() if is_tensor(part)} or parts
    if not tensors:
        raise SourceError(f"the batch {shown} holds no tensor")
    if not has_names(content) or len(tensors) == 1:
        return next(iter(tensors))
    images = [n for n, part in tensors.items() if is_tensor(part) and part.is_floating_point() and part.dim() >= 3]
    named = [name for name in _INPUT_NAMES if name in tensors]
    if len(images) == 1 or named:
        return images[0] if len(images) == 1 else named[0]
    raise SourceError(f"{shown} holds several tensors: say which is the input by --batch-key, one of {_list(tensors)}")


def _list(parts: dict[str, Any]) -> str:
    return ", ".join(printable(name, 40) for name in list(parts)[:8]) or "none"
