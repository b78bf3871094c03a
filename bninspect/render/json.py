"""The report itself, as JSON: what the Python function returns, and what a snapshot is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bninspect.render._view import EVERY

if TYPE_CHECKING:
    from bninspect.report import Report

SCHEMAS = EVERY


def render(report: Report, *, color: bool, width: int | None) -> str:  # noqa: ARG001
    """Indented JSON; vectors become lists, and NaN and infinity null."""
    from bninspect import codec

    return codec.encode(report)
