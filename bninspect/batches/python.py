"""The user's own data: ``package.module:loader`` and ``data.py:loader``. This runs the user's code."""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from bninspect._imports import load_object, looks_like_object
from bninspect.batches import Batch, BatchOptions
from bninspect.batches._elements import pick
from bninspect.errors import SourceError
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SCHEME = "py"


def accepts(text: str) -> bool:
    """``module:name`` or ``file.py:name``."""
    return looks_like_object(text)


def load(value: str, options: BatchOptions) -> Batch:
    """A DataLoader, any iterable, a generator, or a function that gives one; or one batch: a tensor, tuple or dict.

    Raises:
        SourceError: it does not exist, raised, is no iterable, or holds no tensor; while it streams as well.
    """
    from torch import Tensor

    shown = printable(value)
    found = load_object(value)
    if callable(found) and not hasattr(found, "__iter__"):
        found = _called(found, shown)
    if isinstance(found, (Tensor, dict, tuple)):
        element, tensor = pick(found, options.key, shown)
        return Batch(
            name=value, kind="python", data=tensor, element=element, num_images=len(tensor) if tensor.dim() else None
        )
    if not hasattr(found, "__iter__"):
        raise SourceError(f"{shown} is a {type(found).__name__}: a loader, an iterable or a tensor was expected")
    return streamed(value, "python", found, options)


def streamed(name: str, kind: str, source: Iterable[Any], options: BatchOptions) -> Batch:
    """A batch whose pieces come one after another; of each, the same element is taken."""
    shown = printable(name)
    steps = islice(_steps(source, shown), options.max_batches)
    first = next(steps, None)
    if first is None:
        raise SourceError(f"the batch {shown} is empty: it gave no piece")
    element, _ = pick(first, options.key, shown)
    pieces = (pick(step, options.key, shown)[1] for step in chain([first], steps))
    return Batch(name=name, kind=kind, data=pieces, element=element)


def _called(function: Any, shown: str) -> Any:
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise SourceError(_raised(shown, error)) from error


def _steps(source: Iterable[Any], shown: str) -> Iterator[Any]:
    try:
        yield from source
    except SourceError:
        raise
    except (Exception, SystemExit) as error:
        raise SourceError(_raised(shown, error)) from error


def _raised(shown: str, error: BaseException) -> str:
    return f"{shown} raised {type(error).__name__}: {printable(str(error), 300)}"
