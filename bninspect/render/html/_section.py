"""One report on a page: its words and tables as in the other formats, its findings, its pictures and its numbers."""

from __future__ import annotations

import importlib
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from bninspect.render._view import view
from bninspect.render.html._vectors import Vectors, without
from bninspect.report.course import WatchCourse
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bninspect.render._view import Table
    from bninspect.render.html._rows import Rows
    from bninspect.render.html._together import Together
    from bninspect.render.html.pictures import Picture
    from bninspect.report import Finding


class Content(NamedTuple):
    """What one kind of report puts on its page, beside what all have; see :mod:`bninspect.render.html.kinds`.

    Attributes:
        verdict: one sentence.
        pictures: of the whole.
        layers: the table that is searched and linked to.
        findings: each with the name that links lead to, under the heading ``found``.
        per_layer: pictures of the one layer that is looked at.
        vectors: of all layers, that pictures are drawn from.
        lacks: what the report would need for more pictures.
        folded: tables that few look at, each with its title.
    """

    verdict: str
    pictures: tuple[Picture, ...] = ()
    layers: Rows | None = None
    findings: tuple[tuple[str, Finding], ...] = ()
    found: str = "Findings"
    per_layer: tuple[Picture, ...] = ()
    vectors: Vectors | None = None
    lacks: tuple[str, ...] = ()
    folded: tuple[tuple[str, Table], ...] = ()


class Section(NamedTuple):
    """One report on the page; ``mark`` begins the ids of its elements."""

    mark: str
    title: str
    above: tuple[str, ...]
    below: tuple[str, ...]
    tables: tuple[Table, ...]
    content: Content

    def data(self) -> dict[str, Any]:
        """What the page's script reads."""
        pictures = [picture.data() for picture in self.content.pictures]
        per_layer = [picture.data() for picture in self.content.per_layer]
        channels = self.content.vectors.data() if self.content.vectors else None
        return {"mark": self.mark, "pictures": pictures, "per_layer": per_layer, "channels": channels}


def anchored(findings: Iterable[Finding]) -> tuple[tuple[str, Finding], ...]:
    """Each with what links to it name: its code, and where a rule has several findings, a number."""
    seen: Counter[str] = Counter()
    named = []
    for finding in findings:
        seen[finding.code] += 1
        number = seen[finding.code]
        named.append((finding.code if number == 1 else f"{finding.code}-{number}", finding))
    return tuple(named)


def of(found: Any, mark: str) -> Section:
    """The section of a report or a run, by its schema: ``bninspect.stats`` has ``kinds/stats.py``."""
    shown = view(found.report if isinstance(found, WatchCourse) else without(found))
    content: Content = _kind(found).content(found)
    own = content.layers.table if content.layers else None
    return Section(
        mark=mark,
        title=printable(shown.title),
        above=tuple(line for line in shown.above if line != content.verdict),
        below=tuple(line for line in shown.below if line != content.verdict),
        tables=tuple(table for table in shown.tables if table != own),
        content=content,
    )


def distinct(labels: Sequence[str]) -> list[str]:
    """The same label twice is told apart by a number."""
    seen: Counter[str] = Counter()
    told = []
    for label in labels:
        seen[label] += 1
        told.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return told


def together(reports: Sequence[Any], labels: Sequence[str]) -> Together | None:
    """What differs between several reports of one kind; of a single one, nothing."""
    return _kind(reports[0]).together(reports, labels) if len(reports) > 1 else None


def _kind(report: Any) -> Any:
    name = report.schema.rpartition(".")[2]
    return importlib.import_module(f"bninspect.render.html.kinds.{name}")
