"""The page of ``stats``: distances over depth, all channels, and the channels of a layer; or a file's stored values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bninspect.render._view import number, view
from bninspect.render.html._section import Content, Rows
from bninspect.render.html._vectors import without
from bninspect.render.html.pictures.channels import channels
from bninspect.render.html.pictures.depth import depth
from bninspect.render.html.pictures.heat import heat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bninspect.render._view import Table
    from bninspect.render.html.pictures import Picture
    from bninspect.report import StatsLayer, StatsReport

_FIELDS = ("index", "mean", "var", "weight", "running_mean", "running_var", "d", "z")  # r follows from these


def content(report: StatsReport) -> Content:
    """What stands on the page of one report."""
    plain = without(report)
    tables = view(plain).tables
    paths = tuple(layer.path or layer.kind for layer in report.layers)
    pictures = [depth([report])] if _compared(report) else []
    full = heat(report)
    pictures += [full] if full else []
    return Content(
        verdict=_verdict(report, tables[0] if tables else None),
        pictures=tuple(pictures),
        layers=Rows(tables[0], paths) if tables else None,
        per_layer=channels(report),
        fields=_FIELDS,
        lacks=_lacks(report),
    )


def together(reports: Sequence[StatsReport], labels: Sequence[str]) -> tuple[Picture, ...]:
    """The distances of all reports in one picture."""
    return (depth(reports, labels),) if all(map(_compared, reports)) else ()


def _compared(report: StatsReport) -> bool:
    return any(layer.d_max is not None for layer in report.layers)


def _verdict(report: StatsReport, table: Table | None) -> str:
    """How many layers are marked in the table, and which is the worst."""
    if not report.layers:
        return "No BatchNorm layer was executed."
    count = f"{len(report.layers):,} layer{'s' * (len(report.layers) != 1)}"
    if not _compared(report):
        what = "Stored values" if report.num_images is None else "Statistics"
        return f"{what} of {count}; there are no running statistics of a batch to compare with."
    marked = {row for row, _ in table.levels} if table else set()
    worst = max(report.layers, key=_far)
    told = f"the mean is furthest off in {worst.path or worst.kind} (|d| up to {number(worst.d_max)})"
    if not marked:
        return f"In all of {count} the running statistics are near those of the batch: {told}."
    return f"In {len(marked):,} of {count} a figure is beyond the bound of its rule; {told}."


def _far(layer: StatsLayer) -> float:
    return -1.0 if layer.d_max is None else layer.d_max


def _lacks(report: StatsReport) -> tuple[str, ...]:
    if any(layer.channels is not None for layer in report.layers) or not report.layers:
        return ()
    return ("The report holds no channels, so there is no picture of them: make it with --channels.",)
