"""Cells of a column under each other: numbers by their point, ranges by both ends, long names broken at their dots."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bninspect.render._view import Span

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_WHOLE = re.compile(r"(?:<|x )?-?\d[\d,]*|-$")  # a number before its point; nothing known is a whole number, too
_PART = re.compile(r".*?[./_:,\\-]+(?=\w)|.+")  # of a word: up to where it may be broken


def aligned(cells: Sequence[str], dots: str) -> list[str]:
    """The cells, all of one length, with ``dots`` between the ends of a range; one value stands where ranges end."""
    ends = [cell.ends if isinstance(cell, Span) else ("", cell) for cell in cells]
    lows, highs = ([pair[end] for pair in ends] for end in (0, 1))
    highs = _by_point(highs)
    if not any(lows):
        return highs
    between = [f" {dots} " if low else " " * (len(dots) + 2) for low in lows]
    return ["".join(parts) for parts in zip(_by_point(lows), between, highs, strict=True)]


def _by_point(cells: Sequence[str]) -> list[str]:
    """Points under each other; what is no number ends where the longest cell does."""
    points = [found.end() if (found := _WHOLE.match(cell)) else -1 for cell in cells]
    left = max(points, default=0)
    right = max((len(cell) - point for cell, point in zip(cells, points, strict=True) if point >= 0), default=0)
    length = max(left + right, *map(len, cells))
    return [
        (cell + " " * (right - len(cell) + point) if point >= 0 else cell).rjust(length)
        for cell, point in zip(cells, points, strict=True)
    ]


def folded(text: str, room: int) -> str:
    """The text, with words that are longer than a line broken: behind a dot or a slash, where there is one."""
    if len(text) <= room:
        return text
    return " ".join("\n".join(_lines(word, room)) if len(word) > room else word for word in text.split(" "))


def _lines(word: str, room: int) -> Iterable[str]:
    line = ""
    for part in _PART.findall(word):
        if line and len(line) + len(part) > room:
            yield line
            line = ""
        line += part
        while len(line) > room:
            yield line[:room]
            line = line[room:]
    yield line
