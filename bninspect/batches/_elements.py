"""Which of the things that a file or a loader gives is the input: itself, the first of a tuple, one of a dict."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from bninspect.errors import SourceError
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

_INPUT_NAMES = ("image", "images", "pixel_values", "x", "input", "inputs")
_LABEL_NAMES = ("label", "labels", "target", "targets", "y")
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


def labels_of(content: Any, images: Any) -> Any:
    """The classes of the images, one number for each, where a step of a loader has them; else ``None``."""
    found: Any
    if _has_names(content):
        named = dict(_items(content))
        found = next((named[name] for name in _LABEL_NAMES if name in named), None)
    else:
        found = content[1] if isinstance(content, (list, tuple)) and len(content) > 1 else None
    fits = is_tensor(found) and found.dim() == 1 and images.dim() > 1 and len(found) == len(images)
    return found if fits and not found.is_floating_point() and not found.is_complex() else None


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
    if not _is_container(content):
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


def is_tensor(value: Any) -> bool:
    """By its class: an object may answer to any name."""
    return hasattr(type(value), "is_floating_point") and hasattr(type(value), "dim")


def _has_names(value: Any) -> bool:
    """A dict or what is like one, a dataclass, a namespace, a named tuple."""
    named = isinstance(value, (Mapping, SimpleNamespace)) or hasattr(type(value), "_fields")
    return named or (dataclasses.is_dataclass(value) and not isinstance(value, type))


def _is_container(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or _has_names(value)


def _items(content: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(content, Mapping):
        return content.items()
    if dataclasses.is_dataclass(content):
        return [(field.name, getattr(content, field.name)) for field in dataclasses.fields(content)]
    if hasattr(type(content), "_fields"):
        return zip(content._fields, content, strict=True)
    return vars(content).items() if isinstance(content, SimpleNamespace) else enumerate(content)


def _parts(content: Any) -> dict[str, Any]:
    """The tensors and containers in a container, by name."""
    return {str(name): part for name, part in _items(content) if is_tensor(part) or (_is_container(part) and part)}


def _named(content: Any, key: str, shown: str) -> list[str]:
    """``key`` as the names that lead to it: a name may have dots itself."""
    parts = _parts(content)
    if key in parts:
        return [key]
    for name, part in parts.items():
        if key.startswith(f"{name}.") and _is_container(part):
            return [name, *_named(part, key[len(name) + 1 :], shown)]
    raise SourceError(f"{shown} holds no tensor {printable(key)!r}: it holds {_list(parts)}")


def _next(content: Any, shown: str) -> str:
    parts = _parts(content)
    tensors = {name: part for name, part in parts.items() if is_tensor(part)} or parts
    if not tensors:
        raise SourceError(f"the batch {shown} holds no tensor")
    if not _has_names(content) or len(tensors) == 1:
        return next(iter(tensors))
    images = [n for n, part in tensors.items() if is_tensor(part) and part.is_floating_point() and part.dim() >= 3]
    named = [name for name in _INPUT_NAMES if name in tensors]
    if len(images) == 1 or named:
        return images[0] if len(images) == 1 else named[0]
    raise SourceError(f"{shown} holds several tensors: say which is the input by --batch-key, one of {_list(tensors)}")


def _list(parts: dict[str, Any]) -> str:
    return ", ".join(printable(name, 40) for name in list(parts)[:8]) or "none"
