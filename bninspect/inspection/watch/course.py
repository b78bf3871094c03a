"""A whole run read from its record: the last state, and the figures of all layers over its steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from bninspect.inspection.watch.reading import Reading
from bninspect.report import WatchHeader, WatchLine, WatchRecord
from bninspect.report.course import WatchCourse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bninspect.report import WatchedLayer
    from bninspect.report.header import Float64

FIGURES = ("d_median", "d_max", "r_median", "r_min", "r_max", "speed")
_MOST = 500  # steps that a picture can tell apart
_START = b'{"event":"header"'
_LINE = msgspec.json.Decoder(WatchLine)


def is_run(path: Path) -> bool:
    """Whether a file is the record of a run, and no stored report."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_START)) == _START


def course(path: Path) -> WatchCourse:
    """Read a run; of many records, every n-th is kept.

    Raises:
        SourceError: it is no record of a run, or one that a newer bninspect wrote.
    """
    reading = Reading(path)
    reading.more()
    report = reading.report()  # which has looked at each line
    total = sum(1 for _ in _records(path))
    kept = list(_thinned(path, total))
    paths = tuple(layer.path for layer in kept[-1][0]) if kept else ()
    return WatchCourse(
        report=report,
        records=total,
        steps=tuple(record.step for _, record in kept),
        paths=paths,
        figures={name: _figures(kept, paths, name) for name in FIGURES},
    )


def _records(path: Path) -> Iterator[tuple[tuple[WatchedLayer, ...], WatchRecord]]:
    """Each record with the layers that its figures are of; the last line may be cut."""
    layers: tuple[WatchedLayer, ...] = ()
    with path.open("rb") as file:
        for text in file:
            if not text.endswith(b"\n"):
                return
            line = _LINE.decode(text)
            if isinstance(line, WatchHeader):
                layers = line.layers
            elif isinstance(line, WatchRecord):
                yield layers, line


def _thinned(path: Path, total: int) -> Iterator[tuple[tuple[WatchedLayer, ...], WatchRecord]]:
    each = -(-total // _MOST)
    return (found for number, found in enumerate(_records(path), start=1) if (total - number) % each == 0)


def _figures(kept: list[tuple[tuple[WatchedLayer, ...], WatchRecord]], paths: tuple[str, ...], name: str) -> Float64:
    """One figure; a part of the run may have had its layers in another order."""
    found = np.full((len(kept), len(paths)), np.nan)
    columns = {path: at for at, path in enumerate(paths)}
    for row, (layers, record) in enumerate(kept):
        for layer, value in zip(layers, getattr(record.layers, name), strict=False):
            if value is not None and layer.path in columns:
                found[row, columns[layer.path]] = value
    return found
