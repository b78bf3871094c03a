"""Which of the things that a file or a loader gives is the input: itself, the first of a tuple, one of a dict."""

from __future__ import annotations

from typing import Any

from bninspect.errors import SourceError
from bninspect.text import printable

_INPUT_NAMES = ("image", "images", "pixel_values", "x", "input", "inputs")


def pick(content: Any, key: str | None, shown: str) -> tuple[str | None, Any]:
    """The input among what a file or one step of a loader holds: its name within it, and the tensor.

    Raises:
        SourceError: there is no tensor in it, or several of which ``key`` names none.
    """
    from torch import Tensor

    if isinstance(content, Tensor):
        if key is not None:
            raise SourceError(f"--batch-key {printable(key)} was given, and {shown} holds a single tensor")
        return None, _dense(content, shown)
    if isinstance(content, dict):
        elements = {str(name): value for name, value in content.items()}
    elif isinstance(content, (list, tuple)):
        elements = {str(index): value for index, value in enumerate(content)}
    else:
        raise SourceError(f"the batch {shown} holds a {type(content).__name__}: a tensor was expected")
    tensors = {name: value for name, value in elements.items() if isinstance(value, Tensor)}
    name = _choose(tensors, key, shown, ordered=not isinstance(content, dict))
    return name, _dense(tensors[name], shown)


def _choose(tensors: dict[str, Any], key: str | None, shown: str, *, ordered: bool) -> str:
    known = ", ".join(printable(name, 40) for name in list(tensors)[:8]) or "none"
    if key is not None:
        if key not in tensors:
            raise SourceError(f"{shown} holds no tensor {printable(key)!r}: it holds {known}")
        return key
    if not tensors:
        raise SourceError(f"the batch {shown} holds no tensor")
    if ordered or len(tensors) == 1:
        return next(iter(tensors))
    images = [name for name, value in tensors.items() if value.is_floating_point() and value.dim() >= 3]
    named = [name for name in _INPUT_NAMES if name in tensors]
    if len(images) == 1 or named:
        return images[0] if len(images) == 1 else named[0]
    raise SourceError(f"{shown} holds several tensors: say which is the input by --batch-key, one of {known}")


def _dense(tensor: Any, shown: str) -> Any:
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        raise SourceError(f"the batch {shown} is a sparse, nested or quantized tensor: save a dense one")
    return tensor.detach()
