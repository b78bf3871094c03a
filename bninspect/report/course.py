"""A training run from its first record to its last, read from its lines: what a page draws, and no file holds."""

from __future__ import annotations

from typing import Literal

from bninspect.report.header import Float64, Struct
from bninspect.report.watch import WatchReport  # noqa: TC001  # msgspec reads the types of a struct


class WatchCourse(Struct, frozen=True, kw_only=True):
    """Where a run stands, and what its layers were at each step that was kept.

    Attributes:
        report: of the last state.
        records: that the file holds.
        steps: of those that were kept, evenly; the last one is among them.
        paths: of the layers, in the order of the model.
        figures: by their names in :class:`WatchColumns`, each ``[steps, layers]``; unknown is NaN.
    """

    schema: Literal["bninspect.watch"] = "bninspect.watch"
    report: WatchReport
    records: int
    steps: tuple[int, ...]
    paths: tuple[str, ...]
    figures: dict[str, Float64]
