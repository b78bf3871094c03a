"""Tables for people: on a terminal to its width, elsewhere plain text at its natural width."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from bninspect._collector import without_collections
from bninspect.render._view import EVERY, Column, Table, View, view
from bninspect.text import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bninspect.render._view import Entry
    from bninspect.report import Report

SCHEMAS = EVERY
_UNBOUNDED = 100_000
_GAP = 3  # between two columns
_MANY = 1000  # rows, above which a table is laid out here: rich takes a minute for a hundred thousand
_STYLES = {"error": "bold red", "warning": "bold yellow", "info": "bold cyan"}
_PLAIN = 200  # characters that printable() leaves as they are
_LONG = 50_000  # characters of a text that rich need not look at


@without_collections()
def render(report: Report, *, color: bool, width: int | None) -> str:
    """A report as text; ``width`` is a terminal's, or ``None`` for text at its natural width, in ASCII."""
    from rich.console import Console
    from rich.text import Text

    out = io.StringIO()
    console = Console(
        file=out,
        width=width or _UNBOUNDED,
        force_terminal=color,
        no_color=not color,
        color_system="standard" if color else None,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
        _environ={},
    )
    for part in parts(view(report), width):
        if isinstance(part, Text) and len(part.plain) > _LONG:
            out.write(part.plain + "\n")
        else:
            console.print(part, soft_wrap=width is None)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def parts(shown: View, width: int | None) -> list[RenderableType]:
    """What rich prints of a view: lines and tables."""
    from rich.text import Text

    pieces: list[RenderableType] = [Text(printable(shown.title), style="bold")]
    pieces += [Text(printable(line, 1000), style="dim") for line in shown.above]
    for table in map(_printable, shown.tables):
        kept, hidden = _fit(table, width)
        pieces += [Text(), _long(table, kept) if len(table.rows) > _MANY else _table(table, kept, width)]
        if hidden:
            names = ", ".join(column.head for column in hidden)
            pieces.append(Text(f"(not shown for lack of width: {names}; --format csv has all)", style="dim"))
    for entry in shown.entries:
        pieces += _paragraph(entry, width)
    if shown.below:
        pieces.append(Text())
    return [*pieces, *(Text(printable(line, 1000)) for line in shown.below)]


def _printable(table: Table) -> Table:
    return table._replace(rows=tuple(row if _is_plain(row) else tuple(map(printable, row)) for row in table.rows))


def _is_plain(row: tuple[str, ...]) -> bool:
    """Whether no cell needs another look: one step for all of them."""
    text = "".join(row)
    return len(text) <= _PLAIN and text.isascii() and text.isprintable()


def _fit(table: Table, width: int | None) -> tuple[list[int], list[Column]]:
    """The columns that fit side by side, the least important left out first."""
    widths = [
        max(len(column.head), *(len(row[index]) for row in table.rows)) for index, column in enumerate(table.columns)
    ]
    kept = list(range(len(table.columns)))
    order = sorted(kept, key=lambda index: (table.columns[index].priority, index), reverse=True)
    while width is not None and sum(widths[index] + _GAP for index in kept) > width + _GAP and len(kept) > 2:
        kept.remove(order.pop(0))
    return kept, [column for index, column in enumerate(table.columns) if index not in kept]


def _table(table: Table, kept: list[int], width: int | None) -> Any:
    from rich import box
    from rich import table as rich_table
    from rich.text import Text

    drawn = rich_table.Table(
        box=box.SIMPLE_HEAD if width is not None else _plain_box(),
        padding=(0, 2, 0, 0),
        pad_edge=False,
        show_edge=False,
        header_style="bold",
    )
    for index in kept:
        column = table.columns[index]
        drawn.add_column(Text(column.head), justify=column.justify, no_wrap=width is None, overflow="fold")
    for number, row in enumerate(table.rows):
        styles = (_STYLES.get(table.levels.get((number, index), ""), "") for index in kept)
        drawn.add_row(*(Text(row[index], style=style) for index, style in zip(kept, styles, strict=True)))
    return drawn


def _paragraph(entry: Entry, width: int | None) -> list[RenderableType]:
    """An empty line, the head, and labelled lines that are wrapped beside their labels."""
    from rich.table import Table as Grid
    from rich.text import Text

    head, body = (Grid.grid(padding=(0, 2, 0, 0)) for _ in range(2))
    for grid in (head, body):
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=width is None, overflow="fold")
    head.add_row(Text(entry.label, style=_STYLES.get(entry.level, "")), Text(printable(entry.head, 1000)))
    for index, (label, text) in enumerate(entry.lines):
        again = index > 0 and entry.lines[index - 1][0] == label
        body.add_row(Text("" if again else f"  {label}", style="dim"), Text(printable(text, 1000)))
    return [Text(), head, body]


def _long(table: Table, kept: list[int]) -> Any:
    """The same columns as plain text; wide characters may shift a cell."""
    from rich.text import Text

    shown = [
        tuple(table.columns[index].head for index in kept),
        *([row[index] for index in kept] for row in table.rows),
    ]
    formats = []
    for index, cells in zip(kept, zip(*shown, strict=True), strict=True):
        left = "-" if table.columns[index].justify == "left" else ""
        formats.append(f"%{left}{max(map(len, cells))}s")
    line = (" " * _GAP).join(formats)
    lines = [(line % tuple(row)).rstrip() for row in shown]
    lines.insert(1, "-" * max(map(len, lines)))
    return Text("\n".join(lines), no_wrap=True)


def _plain_box() -> Any:
    """Columns by spaces, and a line of hyphens under the heads, in ASCII."""
    from rich.box import Box

    return Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
