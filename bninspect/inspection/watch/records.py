"""All the places that a run is recorded in: opened together, written in order, and no failure of theirs ends a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bninspect.errors import InputError
from bninspect.inspection.watch import sinks
from bninspect.inspection.watch.journal import Journal
from bninspect.inspection.watch.reading import last_line
from bninspect.inspection.watch.warned import warn
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from bninspect.report import Vector, WatchedLayer, WatchLine


class Records:
    """What ``to`` of :func:`bninspect.watch` names.

    Args:
        to: a path, a logger, a function, or a list of them.
        channels: whether vectors are written beside the path.

    Raises:
        InputError: one of them is none of these, or there is no single path for the vectors.
    """

    def __init__(self, to: Any, *, channels: bool) -> None:
        given = list(to) if isinstance(to, (list, tuple)) else [] if to is None else [to]
        paths = [sinks.journal_path(one) for one in given]
        self._paths = [path for path in paths if path is not None]
        self._logs = [sinks.log_of(one) for one, path in zip(given, paths, strict=True) if path is None]
        if channels and len(self._paths) != 1:
            raise InputError("channels=True writes vectors beside the record: give to a path that ends in .jsonl")
        self._channels = channels
        self._open: list[_Guarded] = []
        self._vectors: _Guarded | None = None
        self.last_step = 0

    @property
    def takes_vectors(self) -> bool:
        """Whether vectors of channels are written."""
        return self._vectors is not None

    def open(self, layers: Sequence[WatchedLayer], *, append: bool, first: bool) -> None:
        """Open everything in the ``first`` process, and nothing in others; ``last_step`` is of a run that goes on.

        Raises:
            InputError: a file exists, belongs to another run, or cannot be made.
        """
        try:
            for path in self._paths:
                if first:
                    self._open_file(path, append=append)
                elif append and path.exists():
                    self.last_step = last_line(path)[0]
        except BaseException:
            self.close()
            raise
        if first:
            self._open += [_Guarded(sinks.Logger(log, layers), "a logger") for log in self._logs]

    def write(self, line: WatchLine) -> None:
        """Write a line everywhere."""
        for sink in self._open:
            sink(lambda one: one.write(line))

    def write_vectors(self, step: int, vectors: dict[str, Vector]) -> None:
        """Write the vectors of a step, where they are asked for."""
        if self._vectors is not None:
            self._vectors(lambda sink: sink.write(step, vectors))

    def close(self) -> None:
        """Give all files up."""
        for sink in self._open:
            sink(lambda one: one.close())
        self._open, self._vectors, self._logs = [], None, []

    def _open_file(self, path: Path, *, append: bool) -> None:
        vectors = sinks.Vectors(path) if self._channels else None
        if vectors is not None:
            if vectors.folder.exists() and not append:
                name = printable(str(vectors.folder))
                raise InputError(f"{name} exists, and two runs never share a folder: give another name")
            self._vectors = _Guarded(vectors, str(vectors.folder))
        try:
            journal = Journal(path, append=append)
        except OSError as error:
            raise InputError(f"{printable(str(path))} cannot be written: {error.strerror}") from error
        self.last_step = journal.last_step
        self._open.append(_Guarded(journal, str(path)))


class _Guarded:
    """A sink whose first failure is a warning, and the others nothing: a full disk must not end a training."""

    def __init__(self, sink: Any, name: str) -> None:
        self._sink, self._name, self._warned = sink, name, False

    def __call__(self, act: Callable[[Any], None]) -> None:
        try:
            act(self._sink)
        except Exception as error:
            if not self._warned:
                self._warned = True
                text = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
                warn(
                    f"{printable(self._name)} cannot be written, and the training goes on: {printable(str(text), 300)}"
                )
