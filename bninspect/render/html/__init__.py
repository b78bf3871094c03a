"""One page in one file, for any report: text, tables and pictures that need no network and run in any browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bninspect.render._view import EVERY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bninspect.report import Report
    from bninspect.report.course import WatchCourse

SCHEMAS = EVERY
FOR_A_FILE = True  # no terminal shows it
SHOWS_CHANNELS = True


def require() -> None:
    """Say what is missing before the work whose result could not be written.

    Raises:
        BNInspectError: plotly or jinja2 is not installed.
    """
    from bninspect.render.html import _assets

    _assets.plotly()


def render(report: Report, *, color: bool, width: int | None) -> str:  # noqa: ARG001
    """The page of one report; the same report gives the same bytes."""
    return page([report])


def page(reports: Sequence[Report | WatchCourse], names: Sequence[str] = ()) -> str:
    """The page of several reports of one kind, side by side.

    Args:
        reports: at least one; of a training run, its last state or all of it.
        names: one for each, such as its file's.

    Raises:
        BNInspectError: plotly or jinja2 is missing.
    """
    from bninspect.render.html import _assets, _section

    assets = _assets.load()
    sections = [_section.of(report, f"r{number}") for number, report in enumerate(reports)]
    labels = _section.distinct(list(names) or [section.title for section in sections])
    return assets.fill(sections, labels, _section.together(reports, labels))
