"""Where a run is recorded: a file of lines, and the loggers that people have already."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bninspect.errors import InputError
from bninspect.report import Alarm, WatchLine, WatchRecord
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bninspect.report import Vector, WatchedLayer


class Logger:
    """Figures by names such as ``bn/layer1.0.bn1/d_max``, for a function of a dict and a step."""

    def __init__(self, log: Callable[[dict[str, float], int], Any], layers: Sequence[WatchedLayer]) -> None:
        self._log, self._layers, self._alarms = log, layers, 0

    def write(self, line: WatchLine) -> None:
        """Log a record; alarms are counted in it."""
        if isinstance(line, Alarm):
            self._alarms += max(len(line.layers), 1)
        elif isinstance(line, WatchRecord):
            self._log(self._figures(line), line.step)

    def close(self) -> None:
        """Nothing: it is the user's own."""

    def _figures(self, record: WatchRecord) -> dict[str, float]:
        figures = {
            f"bn/{layer.path}/{name}": float(column[index])
            for name, column in msgspec.structs.asdict(record.layers).items()
            for index, layer in enumerate(self._layers)
            if column[index] is not None
        }
        figures |= {f"bn/{name}": value for name, value in record.scalars.items() if value is not None}
        return figures | {"bn/alarms": float(self._alarms)}


class Vectors:
    """Per-channel vectors of each record, a safetensors file for each in a folder beside the lines."""

    def __init__(self, journal: Path) -> None:
        self.folder = journal.with_suffix(".channels")

    def write(self, step: int, vectors: dict[str, Vector]) -> None:
        """Write the vectors of a step."""
        from safetensors.numpy import save

        from bninspect.writing import write

        self.folder.mkdir(exist_ok=True)
        write(self.folder / f"step-{step:08}.safetensors", save(vectors))


def journal_path(to: Any) -> Path | None:
    """The path of a file of lines, where ``to`` is one.

    Raises:
        InputError: it is a path of another ending, or in a folder that is not there.
    """
    if not isinstance(to, (str, os.PathLike)):
        return None
    path = Path(os.fspath(to))
    if path.suffix != ".jsonl":
        raise InputError(f"a record is a file that ends in .jsonl, and to={printable(str(path))!r} does not")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {printable(str(path.parent))} for {printable(path.name)}: make it first")
    return path


def log_of(to: Any) -> Callable[[dict[str, float], int], Any]:
    """How a logger takes a dict of figures and a step.

    Raises:
        InputError: it is none.
    """
    if hasattr(to, "add_scalar"):
        return lambda figures, step: [to.add_scalar(name, value, step) for name, value in figures.items()]
    for method in ("log_metrics", "log"):
        if callable(getattr(to, method, None)):
            return lambda figures, step: getattr(to, method)(figures, step=step)
    if callable(to):
        return to  # type: ignore[no-any-return]
    raise InputError(
        f"to is a path ending in .jsonl, a SummaryWriter, an object with log() or log_metrics(), or a function of a "
        f"dict and a step, or a list of these; and not of type {type(to).__name__}"
    )
