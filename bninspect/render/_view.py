"""What a person is shown of a report: lines above, tables, lines below. One ``_<command>.py`` per kind of report."""

from __future__ import annotations

import importlib
import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bninspect.report import Source, Tool


EVERY = tuple(f"bninspect.{name}" for name in ("summary", "stats", "check", "diff", "recalibrate", "noise", "watch"))
"""The schemas of all reports: each has a view."""
_LONGEST = 1e6  # a whole number that is larger is rounded like any other


class Column(NamedTuple):
    """A column's head; on a narrow terminal, columns of the highest ``priority`` number are left out first."""

    head: str
    justify: Literal["left", "right"] = "right"
    priority: int = 0


class Table(NamedTuple):
    """Rows of plain text, one cell per column; ``levels`` are severities of cells, by row and column."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    levels: Mapping[tuple[int, int], str] = MappingProxyType({})


class Entry(NamedTuple):
    """A paragraph: a label and a head, then labelled lines; ``level`` is a severity, or nothing."""

    label: str
    head: str
    lines: tuple[tuple[str, str], ...] = ()
    level: str = ""


class View(NamedTuple):
    """A report for a reader: ``above`` and ``below`` are lines of text."""

    title: str
    above: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    entries: tuple[Entry, ...] = ()
    below: tuple[str, ...] = ()


def view(report: Any) -> View:
    """The view of a report, by its schema: ``bninspect.stats`` is made by ``_stats.py``."""
    name = report.schema.rpartition(".")[2]
    made: View = importlib.import_module(f"bninspect.render._{name}").view(report)
    return made


def number(value: float | None) -> str:
    """Four significant digits; a whole number as such; nothing known as a dash."""
    if value is None:
        return "-"
    if isinstance(value, float) and not (value.is_integer() and abs(value) < _LONGEST):
        return f"{value:.4g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{int(value):,}"


def plural(count: int, noun: str) -> str:
    """``1 layer``, ``2 layers``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


class Span(str):
    """A range as text, which knows its ends; a table shows those, shorter."""

    __slots__ = ("ends",)
    ends: tuple[str, str]


def span(low: float | None, high: float | None) -> str:
    """A range over channels, or its single value."""
    if low is None or high is None:
        return "-"
    least, most = number(low), number(high)
    short = _short(low), _short(high)
    return between(least, most, short if short[0] != short[1] else None)


def between(least: str, most: str, short: tuple[str, str] | None = None) -> str:
    """A range of numbers that are text already; they are its ends in a table, too, where no shorter ones are given."""
    if least == most:
        return least
    made = Span(f"{least} .. {most}")
    made.ends = short or (least, most)
    return made


def _short(value: float) -> str:
    """Two decimals of what is around one, two digits of what is small; what four digits tell exactly has them."""
    if not math.isfinite(value) or float(f"{value:.4g}") == value:
        return number(value)
    if abs(value) >= 100:
        return number(float(round(value)))
    return f"{value:.{3 if abs(value) >= 1 else 2}g}"


def shape(value: Any) -> str:
    """A shape as PyTorch writes it; several as a list of them."""
    return "-" if value is None else str(listed(value))


def listed(value: Any) -> Any:
    """Tuples as lists, all the way down."""
    return [listed(part) for part in value] if isinstance(value, (tuple, list)) else value


def flag(value: bool | None, yes: str = "yes", no: str = "no") -> str:  # noqa: FBT001
    """A yes or no; nothing known as a dash."""
    return "-" if value is None else yes if value else no


def prepared(source: Source) -> str:
    """Which transforms images went through, which the kind of the batch names; of other batches nothing."""
    transforms = (source.batch_kind or "").partition(", ")[2]
    return f", prepared by {transforms}" if transforms else ""


def versions(tool: Tool) -> str:
    """The header's line: what made the figures."""
    parts = [f"bninspect {tool.bninspect}", f"Python {tool.python}"]
    parts += [f"torch {tool.torch}"] if tool.torch else []
    parts += [f"torchvision {tool.torchvision}"] if tool.torchvision else []
    parts += [f"timm {tool.timm}"] if tool.timm else []
    parts += [f"device {tool.device}"] if tool.device else []
    parts += [tool.dtype] if tool.dtype else []
    parts += [f"TF32 {'on' if tool.tf32 else 'off'}"] if tool.tf32 is not None else []
    return ", ".join(parts)
