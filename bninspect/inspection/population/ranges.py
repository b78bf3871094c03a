"""Ranges of chunks, from the first to behind the last: what is missing, and what falls to one process."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

Range = tuple[int, int]


def joined(ranges: Iterable[Range]) -> list[Range]:
    """The same chunks in order, as few ranges as there can be."""
    found: list[Range] = []
    for begin, end in sorted(ranges):
        if found and begin <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        elif end > begin:
            found.append((begin, end))
    return found


def missing(total: int, done: Iterable[Range]) -> list[Range]:
    """The chunks below ``total`` that are not done."""
    left, at = [], 0
    for begin, end in [*joined(done), (total, total)]:
        if begin > at:
            left.append((at, begin))
        at = max(at, end)
    return left


def share(ranges: list[Range], rank: int, world_size: int) -> list[Range]:
    """Of ``world_size`` shares of the chunks, consecutive and of equal size within one, that of ``rank``."""
    total = sum(end - begin for begin, end in ranges)
    first, last = total * rank // world_size, total * (rank + 1) // world_size
    found, at = [], 0
    for begin, end in ranges:
        low, high = max(first - at, 0), min(last - at, end - begin)
        if high > low:
            found.append((begin + low, begin + high))
        at += end - begin
    return found


def without(ranges: list[Range], done: Iterable[Range]) -> list[Range]:
    """What is left of ranges when some chunks are done."""
    gone = joined(done)
    left = []
    for begin, end in ranges:
        inside = [(max(low, begin) - begin, min(high, end) - begin) for low, high in gone if low < end and high > begin]
        left += [(begin + low, begin + high) for low, high in missing(end - begin, inside)]
    return left
