"""The user's own data: ``package.module:loader`` and ``data.py:loader``. This runs the user's code."""

from __future__ import annotations

import inspect
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from bninspect._imports import load_object, looks_like_object
from bninspect.batches import Batch, BatchOptions
from bninspect.batches._elements import inputs, pick
from bninspect.containers import has_names, labels_of
from bninspect.errors import SourceError
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

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
    if options.share:
        return _whole(value, found, options, options.share)
    again = None
    if _makes(found):
        again = partial(_called, found, shown)
        found = again()
    single = isinstance(found, (Tensor, tuple)) or has_names(found)
    if options.as_given and single:
        return Batch(name=value, kind="python", data=[found], element=options.key)
    if single:
        element, data = inputs(found, options.key, shown)
        if isinstance(data, tuple):
            return Batch(name=value, kind="python", data=[data], element=element, num_images=len(data[0]))
        return Batch(
            name=value, kind="python", data=data, element=element, num_images=len(data) if data.dim() else None
        )
    if not hasattr(found, "__iter__"):
        raise SourceError(f"{shown} is a {type(found).__name__}: a loader, an iterable or a tensor was expected")
    return streamed(value, "python", found, options, again)


def _whole(value: str, found: Any, options: BatchOptions, share: tuple[int, int]) -> Batch:
    """The data as they are: a data set, a loader, an iterable; of a function that takes them, the share of a rank."""
    from torch import Tensor

    shown = printable(value)
    own_share = False
    if _makes(found):
        own_share = _takes_share(found)
        names = dict(zip(("rank", "world_size"), share, strict=True)) if own_share else {}
        found = _called(partial(found, **names), shown)
    if isinstance(found, (Tensor, tuple)) or has_names(found):
        element, found = pick(found, options.key, shown)
        return Batch(name=value, kind="python", data=found, element=element)

    def input_of(step: Any) -> Any:
        return pick(step, options.key, shown)[1]

    return Batch(name=value, kind="python", data=found, pick=input_of, own_share=own_share)


def _makes(found: Any) -> bool:
    """Whether it gives the data when it is called, as functions and classes do."""
    return callable(found) and (isinstance(found, type) or not hasattr(found, "__iter__"))


def _takes_share(function: Any) -> bool:
    try:
        return {"rank", "world_size"} <= set(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return False


def streamed(
    name: str, kind: str, source: Iterable[Any], options: BatchOptions, again: Callable[[], Iterable[Any]] | None = None
) -> Batch:
    """A batch whose pieces come one after another; of each, the same element is taken.

    Args:
        name: as the user wrote it.
        kind: for the report.
        source: what gives the pieces.
        options: what the command line says.
        again: makes the source anew, for going through it a second time; default: it is asked for another iterator.
    """
    stream = _Stream(source, again, options, printable(name))
    return Batch(name=name, kind=kind, data=stream, element=stream.element)


class _Stream:
    """The pieces of a source, which is begun at once, and anew for each time that they are gone through after that."""

    def __init__(
        self, source: Iterable[Any], again: Callable[[], Iterable[Any]] | None, options: BatchOptions, shown: str
    ) -> None:
        self.source, self.again, self.options, self.shown = source, again, options, shown
        steps = self._steps(source)
        first = next(steps, None)
        if first is None:
            raise SourceError(f"the batch {shown} is empty: it gave no piece")
        self.element = options.key if options.as_given else inputs(first, options.key, shown)[0]
        self._begun: Iterator[Any] | None = chain([first], steps)

    def __iter__(self) -> Iterator[Any]:
        begun, self._begun = self._begun, None
        return map(self._piece, begun if begun is not None else self._steps(self._anew()))

    def _anew(self) -> Iterable[Any]:
        if self.again is not None:
            return self.again()
        if iter(self.source) is self.source:
            raise SourceError(
                f"{self.shown} is a {type(self.source).__name__}, which can be gone through once, and several passes "
                "are needed: give the function that makes it, a list or a DataLoader"
            )
        return self.source

    def _steps(self, source: Iterable[Any]) -> Iterator[Any]:
        return islice(_steps(source, self.shown), self.options.max_batches)

    def _piece(self, step: Any) -> Any:
        if self.options.as_given:
            return step
        found = inputs(step, self.options.key, self.shown)[1]
        if not self.options.labels or isinstance(found, tuple) or found.dim() < 2:
            return found
        labels = labels_of(step, len(found))
        return found if labels is None else [found, labels]


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
