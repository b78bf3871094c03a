"""Markdown tables, for pull requests and job summaries."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bninspect.render._view import EVERY, view
from bninspect.text import printable

if TYPE_CHECKING:
    from bninspect.render._view import Entry, Table
    from bninspect.report import Report

SCHEMAS = EVERY


def render(report: Report, *, color: bool, width: int | None) -> str:  # noqa: ARG001
    """A heading, lines, and a table whose names are escaped."""
    shown = view(report)
    blocks = [f"### {escape(shown.title)}", "  \n".join(map(escape, shown.above))]
    blocks += [_table(table) for table in shown.tables]
    blocks += [_paragraph(entry) for entry in shown.entries]
    if shown.below:
        blocks.append("  \n".join(map(escape, shown.below)))
    return "\n\n".join(blocks) + "\n"


def _table(table: Table) -> str:
    heads = [escape(column.head) for column in table.columns]
    rules = ["---:" if column.justify == "right" else ":---" for column in table.columns]
    rows = [heads, rules, *([escape(cell) for cell in row] for row in table.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _paragraph(entry: Entry) -> str:
    label = " ".join(entry.label.split())
    lines = [f"- {label}: {escape(text)}" for label, text in entry.lines]
    return "\n".join([f"**{label}** {escape(entry.head)}", "", *lines])


def escape(text: str) -> str:
    """Text without any meaning in Markdown or HTML."""
    return re.sub(r"([\\`*_<>|\[\]~#])", r"\\\1", printable(text, 1000))
