"""The page of ``diff``: how far each layer moved, and its figures before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bninspect.render._diff import ordered, value, verdict
from bninspect.render._view import view
from bninspect.render.html._rows import Rows
from bninspect.render.html._section import Content
from bninspect.render.html._together import How, Together
from bninspect.render.html._together import together as over_each_other
from bninspect.render.html.pictures.moved import before_after, distances, far, moved_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bninspect.report import Difference, DiffReport


def together(reports: Sequence[DiffReport], labels: Sequence[str]) -> Together:
    """How far layers moved in each comparison: what differs in one of them alone moved by nothing in the others."""
    found = [{(one.path or "(model)", one.field or one.what): _told(one) for one in report.differences}
             for report in reports]  # fmt: skip
    still = {key: 0.0 if isinstance(value, float) else None for own in found for key, value in own.items()}
    how: dict[str, How] = dict.fromkeys({name for own in found for _, name in own}, "difference")
    return over_each_other([still | own for own in found], labels, how, [moved_in(reports, labels)])


def _told(found: Difference) -> Any:
    """How far it moved, or else what became of it."""
    moved = far(found)
    return moved if moved is not None else f"{value(found.a)} -> {value(found.b)}"


def content(report: DiffReport) -> Content:
    """What stands on the page of one report."""
    tables = view(report).tables
    drawn = (distances(report), before_after(report))
    paths = tuple(found.path or "(model)" for found in ordered(report))
    return Content(
        verdict=verdict(report),
        pictures=tuple(picture for picture in drawn if picture is not None),
        layers=Rows(tables[0], paths, "Differences", column=1) if tables else None,
    )
