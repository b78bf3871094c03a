"""The layers that ``check`` judged, as a table: what was found in each, and how far it is from the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bninspect.render._view import Column, Table, number
from bninspect.render.html._rows import Rows
from bninspect.render.html.pictures.findings import LEVELS
from bninspect.report import bounds
from bninspect.report.judged import UNKNOWN, Judged

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bninspect.report import CheckReport, Finding

_FIRST = (Column("layer", "left"), Column("findings", "left"), Column("worst", "left"))
_FIGURES = tuple(Column(f"{what} {part}") for what in ("d", "r") for part in ("5 %", "median", "95 %"))
_LAST = Column("how much", "left")
_LINKED = 1  # the column of findings

Found = list[tuple[str, "Finding", str]]


def judged(report: CheckReport, told: Sequence[tuple[str, Finding]]) -> Rows | None:
    """All in the order of the model, then what else a finding names; ``told`` are findings with their anchors."""
    found = _by_layer(told)
    layers = {layer.path: layer for layer in report.layers}
    paths = (*layers, *(path for path in found if path not in layers))
    if not paths:
        return None
    figures = any(layer.d != UNKNOWN for layer in report.layers)
    made = [_row(path, layers.get(path), found.get(path, []), figures=figures) for path in paths]
    columns = (*_FIRST, Column("channels"), *(_FIGURES if figures else ()), _LAST)
    levels = {(at, column): level for at, (_, own) in enumerate(made) for column, level in own}
    links = {(at, _LINKED): tuple((one.code, anchor) for anchor, one, _ in found[path])
             for at, path in enumerate(paths) if path in found}  # fmt: skip
    return Rows(Table(columns, tuple(row for row, _ in made), levels), paths, words=len(columns) - 1, links=links)


def _by_layer(told: Sequence[tuple[str, Finding]]) -> dict[str, Found]:
    found: dict[str, Found] = {}
    for anchor, finding in told:
        for place in finding.layers:
            found.setdefault(place.path, []).append((anchor, finding, place.told))
    return found


def _row(
    path: str, layer: Judged | None, found: Found, *, figures: bool
) -> tuple[tuple[str, ...], list[tuple[int, str]]]:
    """Its cells, and the levels of some of them."""
    worst = min((finding.severity for _, finding, _ in found), key=LEVELS.index, default="-")
    codes = ", ".join(finding.code for _, finding, _ in found) or "-"
    told = "; ".join(dict.fromkeys(text for *_, text in found if text)) or "-"
    values = (*layer.d, *layer.r) if layer else UNKNOWN * 2
    first = (path, codes, worst, number(layer.num_features if layer else None))
    levels = [(2, worst)] if found else []
    if not figures:
        return (*first, told), levels
    levels += [(len(first) + at, level) for at, level in _levels(values)]
    return (*first, *map(number, values), told), levels


def _levels(values: Sequence[float | None]) -> Iterator[tuple[int, str]]:
    """Which of d and r, three each, pass the bounds of the rules."""
    for at, value in enumerate(values):
        if value is not None:
            ratio = at >= len(values) // 2
            warning, error = (bounds.R, bounds.R_BROKEN) if ratio else (bounds.D, bounds.D_BROKEN)
            far = max(value, 1 / value if value > 0 else float("inf")) if ratio else abs(value)
            if far > warning:
                yield at, "error" if far > error else "warning"
