"""Tables for people: on a terminal to its width, elsewhere plain text at its natural width."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from bninspect._collector import without_collections
from bninspect.render._columns import aligned, folded
from bninspect.render._view import EVERY, Table, View, view
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import RenderableType

    from bninspect.render._view import Entry
    from bninspect.report import Report

SCHEMAS = EVERY
_UNBOUNDED = 100_000
_GAP = 3  # between two columns
_LEAST = 8  # places that a column has, however little room there is
_MANY = 1000  # rows, above which a table is laid out here: rich takes a minute for a hundred thousand
_STYLES = {"error": "bold red", "warning": "bold yellow", "info": "bold cyan"}
_PLAIN = 200  # characters that printable() leaves as they are
_LONG = 50_000  # characters of a text that rich need not look at


@without_collections()
def render(report: Report, *, color: bool, width: int | None) -> str:
    """A report as text; ``width`` is a terminal's, or ``None`` for text at its natural width, in ASCII."""
    return _render(report, color=color, width=width, ascii_only=width is None)


@without_collections()
def render_ascii(report: Report, *, color: bool, width: int | None) -> str:
    """The same for a terminal whose encoding has neither lines nor an ellipsis."""
    return _render(report, color=color, width=width, ascii_only=True)


def _render(report: Report, *, color: bool, width: int | None, ascii_only: bool) -> str:
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
    for part in parts(view(report), width, ascii_only=ascii_only):
        if isinstance(part, Text) and len(part.plain) > _LONG:
            out.write(part.plain + "\n")
        else:
            console.print(part, soft_wrap=width is None)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def parts(shown: View, width: int | None, *, ascii_only: bool = False) -> list[RenderableType]:
    """What rich prints of a view: lines and tables."""
    from rich.text import Text

    pieces: list[RenderableType] = [_line(shown.title, width, "bold")]
    pieces += [_line(line, width, "dim") for line in shown.above]
    for table in shown.tables:
        lined = _lined_up(_printable(table), ".." if ascii_only else "…")
        kept, hidden = _fit(lined, width)
        pieces += [Text(), _long(lined, kept) if len(table.rows) > _MANY else _table(lined, kept, width, ascii_only)]
        if hidden:
            names = ", ".join(table.columns[index].head for index in hidden)
            pieces.append(Text(f"(not shown for lack of width: {names}; --format csv has all)", style="dim"))
    for entry in shown.entries:
        pieces += _paragraph(entry, width)
    if shown.below:
        pieces.append(Text())
    return [*pieces, *(_line(line, width) for line in shown.below)]


def _line(text: str, width: int | None, style: str = "") -> Any:
    """A line of text; only a word that is longer than a terminal's line is broken."""
    from rich.text import Text

    text = printable(text, 1000)
    return Text(text if width is None else folded(text, width), style=style)


def _printable(table: Table) -> Table:
    return table._replace(rows=tuple(row if _is_plain(row) else tuple(map(printable, row)) for row in table.rows))


def _is_plain(row: tuple[str, ...]) -> bool:
    """Whether no cell needs another look: one step for all of them."""
    text = "".join(row)
    return len(text) <= _PLAIN and text.isascii() and text.isprintable()


def _lined_up(table: Table, dots: str) -> Table:
    """The table with columns of numbers in their places, heads and cells of one length."""
    columns, cells = list(table.columns), list(zip(*table.rows, strict=True))
    for index, column in enumerate(columns):
        if column.justify == "right" and table.rows:
            length = max(len(column.head), len((lines := aligned(cells[index], dots))[0]))
            columns[index] = column._replace(head=column.head.rjust(length))
            cells[index] = tuple(line.rjust(length) for line in lines)
    return table._replace(columns=tuple(columns), rows=tuple(zip(*cells, strict=True)))


def _fit(table: Table, width: int | None) -> tuple[dict[int, int], list[int]]:
    """The columns that fit side by side, with their widths, and those left out, the least important first.

    Where the last two are too wide, the wider one has the room that the other leaves.
    """
    widths = dict(enumerate(max(map(_width, cells)) for cells in zip(*_cells(table), strict=True)))
    order = sorted(widths, key=lambda index: (table.columns[index].priority, index), reverse=True)
    kept = dict(widths)
    while width is not None and _total(kept) > width and len(kept) > 2:
        del kept[order.pop(0)]
    if width is not None and _total(kept) > width:
        widest = max(kept, key=kept.__getitem__)
        kept[widest] = max(kept[widest] - _total(kept) + width, _LEAST)
    return kept, [index for index in widths if index not in kept]


def _total(widths: dict[int, int]) -> int:
    return sum(widths.values()) + _GAP * (len(widths) - 1)


def _cells(table: Table) -> Iterator[Sequence[str]]:
    yield tuple(column.head for column in table.columns)
    yield from table.rows


def _width(cell: str) -> int:
    """In places of a terminal, of which some characters take two."""
    if cell.isascii():
        return len(cell)
    from rich.cells import cell_len

    return cell_len(cell)


def _table(table: Table, kept: dict[int, int], width: int | None, ascii_only: bool) -> Any:  # noqa: FBT001
    from rich import box
    from rich import table as rich_table
    from rich.text import Text

    drawn = rich_table.Table(
        box=_plain_box() if ascii_only else box.SIMPLE_HEAD,
        padding=(0, 2, 0, 0),
        pad_edge=False,
        show_edge=False,
        header_style="bold",
    )
    for index, room in kept.items():
        drawn.add_column(Text(table.columns[index].head), no_wrap=width is None, overflow="fold", max_width=room)
    for number, row in enumerate(table.rows):
        styles = (_STYLES.get(table.levels.get((number, index), ""), "") for index in kept)
        cells = (folded(row[index], room) for index, room in kept.items())
        drawn.add_row(*(Text(cell, style=style) for cell, style in zip(cells, styles, strict=True)))
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


def _long(table: Table, kept: Iterable[int]) -> Any:
    """The same columns as plain text; wide characters may shift a cell."""
    from rich.text import Text

    shown = [[row[index] for index in kept] for row in _cells(table)]
    line = (" " * _GAP).join(f"%-{max(map(len, cells))}s" for cells in zip(*shown, strict=True))
    lines = [(line % tuple(row)).rstrip() for row in shown]
    lines.insert(1, "-" * max(map(len, lines)))
    return Text("\n".join(lines), no_wrap=True)


def _plain_box() -> Any:
    """Columns by spaces, and a line of hyphens under the heads, in ASCII."""
    from rich.box import Box

    return Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
