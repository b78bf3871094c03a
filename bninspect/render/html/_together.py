"""What differs between several reports of one kind: a sentence, common pictures, and a row for each figure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from bninspect.render._view import Column, Table, listed, number, plural
from bninspect.render.html._rows import Rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from bninspect.render.html.pictures import Picture

How = Literal["ratio", "difference", "exact"]
Key = tuple[str, str]

_SAME = 0.01  # of a ratio or of a figure, below which two are taken for one
_UNKNOWN = 1e9  # how far apart a figure and none are
_WHOLE = "(model)"


class Together(NamedTuple):
    """What stands above reports that are side by side; ``rows`` are ordered by how far apart the reports are."""

    verdict: str
    pictures: tuple[Picture, ...] = ()
    rows: Rows | None = None


class _Row(NamedTuple):
    key: Key
    values: list[Any]
    apart: float
    told: str


def figures(layers: Iterable[Any], names: Iterable[str]) -> dict[Key, Any]:
    """Fields of layers, by the layer and the name of the field."""
    return {(layer.path or layer.kind, name): getattr(layer, name) for layer in layers for name in names}


def together(
    found: Sequence[Mapping[Key, Any]],
    labels: Sequence[str],
    how: Mapping[str, How],
    pictures: Iterable[Picture | None] = (),
) -> Together:
    """Figures of several reports against each other; one that ``how`` does not name is compared exactly.

    Args:
        found: for each report, a value by layer and figure.
        labels: of the reports.
        how: a quotient or a difference, by the name of the figure.
        pictures: of all of them.
    """
    everywhere = list(dict.fromkeys(key for report in found for key in report))
    layers = dict.fromkeys(path for path, _ in everywhere if path != _WHOLE)
    held = [{path for path, _ in report} | {_WHOLE} for report in found]
    rows = [_part(path, [path in own for own in held]) for path in layers]
    rows += [
        _row((path, name), [report.get((path, name)) for report in found], how.get(name, "exact"))
        for path, name in everywhere
        if all(path in own for own in held)
    ]
    differing = sorted((row for row in rows if row.apart > _SAME), key=_order)
    drawn = tuple(picture for picture in pictures if picture is not None)
    return Together(_verdict(differing, labels, len(layers)), drawn, _table(differing, labels))


def of_model(found: Mapping[str, Any]) -> dict[Key, Any]:
    """Figures that are of no layer."""
    return {(_WHOLE, name): value for name, value in found.items()}


def _part(path: str, held: list[bool]) -> _Row:
    """Whether a layer is in all reports."""
    return _Row((path, "the layer"), ["there" if one else None for one in held], 0.0 if all(held) else math.inf, "-")


def _row(key: Key, values: list[Any], how: How) -> _Row:
    values = [None if isinstance(value, float) and not math.isfinite(value) else value for value in values]
    if all(value == values[0] for value in values):
        return _Row(key, values, 0.0, "-")
    if how == "exact" or not all(isinstance(value, (int, float)) for value in values):
        return _Row(key, values, math.inf if how == "exact" else _UNKNOWN, "-")
    low, high = min(values), max(values)
    if how == "ratio" and low > 0:
        return _Row(key, values, high / low - 1, f"x {high / low:.3g}")
    return _Row(key, values, high - low, f"{high - low:.3g}")


def _order(row: _Row) -> tuple[bool, float]:
    """The furthest apart first, and counters last."""
    return row.key[1] == "num_batches_tracked", -row.apart


def _verdict(rows: Sequence[_Row], labels: Sequence[str], layers: int) -> str:
    if not rows:
        return f"Nothing differs by more than {_SAME:.0%} in {plural(layers, 'layer')}."
    differing = len({row.key[0] for row in rows if row.key[0] != _WHOLE})
    (path, name), values = rows[0].key, rows[0].values
    told = ", ".join(f"{_shown(value)} in {label}" for value, label in zip(values, labels, strict=True))
    whole = " and the model as a whole" if any(row.key[0] == _WHOLE for row in rows) else ""
    return f"{differing:,} of {plural(layers, 'layer')}{whole} differ; first of all {path}, {name}: {told}."


def _table(rows: Sequence[_Row], labels: Sequence[str]) -> Rows | None:
    if not rows:
        return None
    columns = (Column("layer", "left"), Column("figure", "left"), *map(Column, labels), Column("apart"))
    cells = tuple((*row.key, *map(_shown, row.values), row.told) for row in rows)
    return Rows(Table(columns, cells), tuple("" if row.key[0] == _WHOLE else row.key[0] for row in rows))


def _shown(value: Any) -> str:
    return number(value) if value is None or isinstance(value, (int, float)) else str(listed(value))
