"""The page of ``check``: which findings are where, and each with why, what to do and all of its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bninspect.render._check import causes, verdict
from bninspect.render._view import Column, Table
from bninspect.render.html._section import Content, Rows, anchored
from bninspect.render.html.pictures.depth import Line, depth
from bninspect.render.html.pictures.findings import LEVELS, findings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bninspect.render.html.pictures import Picture
    from bninspect.report import CheckReport, Finding

_COLUMNS = (Column("layer", "left"), Column("worst", "left"), Column("findings", "left"), Column("how much", "left"))


def content(report: CheckReport) -> Content:
    """What stands on the page of one report."""
    rows = _layers(report)
    pictures: tuple[Picture, ...] = (depth(Line(report.measured)),) if report.measured else ()
    pictures += (findings(report),) if rows else ()
    return Content(
        verdict=verdict(report),
        pictures=pictures,
        findings=anchored(finding for cause, followers in causes(report) for finding in (cause, *followers)),
        layers=Rows(_table(rows), tuple(rows), "Layers with findings") if rows else None,
        lacks=_lacks(report),
    )


def together(reports: Sequence[CheckReport], labels: Sequence[str]) -> tuple[Picture, ...]:
    """The distances that were measured for all reports, in one picture."""
    if not all(report.measured for report in reports):
        return ()
    return (depth(*(Line(report.measured, name=name) for report, name in zip(reports, labels, strict=True))),)


def _lacks(report: CheckReport) -> tuple[str, ...]:
    if not report.num_layers:
        return ()
    what = "each channel" if report.measured else "each layer and channel"
    return (f"The figures of {what}: bninspect stats MODEL --batch SOURCE --channels --format html",)


def _layers(report: CheckReport) -> dict[str, list[tuple[Finding, str]]]:
    """What was found in each layer, and how much of it."""
    found: dict[str, list[tuple[Finding, str]]] = {}
    for finding in report.findings:
        for place in finding.layers:
            found.setdefault(place.path or "(model)", []).append((finding, place.told))
    return found


def _table(rows: dict[str, list[tuple[Finding, str]]]) -> Table:
    cells, levels = [], {}
    for at, (path, found) in enumerate(rows.items()):
        worst = min((finding.severity for finding, _ in found), key=LEVELS.index)
        codes = ", ".join(dict.fromkeys(finding.code for finding, _ in found))
        told = "; ".join(dict.fromkeys(text for _, text in found if text))
        cells.append((path, worst, codes, told or "-"))
        levels[at, 1] = worst
    return Table(_COLUMNS, tuple(cells), levels)
