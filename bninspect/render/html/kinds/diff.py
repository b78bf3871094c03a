"""The page of ``diff``: how far each layer moved, and its figures before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bninspect.render._diff import ordered, verdict
from bninspect.render._view import view
from bninspect.render.html._section import Content, Rows
from bninspect.render.html.pictures.moved import before_after, distances

if TYPE_CHECKING:
    from bninspect.report import DiffReport


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
