"""How a recalibration is shown: each layer's distance to the data before and after, then what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bninspect.render._view import Column, Table, View, between, number, plural, prepared, span, versions

if TYPE_CHECKING:
    from bninspect.report import LeftLayer, Predictions, RecalibratedLayer, RecalibrateReport

_COLUMNS = (
    Column("layer", "left"),
    Column("channels", "right", 2),
    Column("values", "right", 3),
    Column("|d| max before"),
    Column("r before"),
    Column("|d| max after"),
    Column("r after"),
)
_NONFINITE = Column("nonfinite before", "right", 1)
_HOW = {
    "fixed-point": "all layers at once, in eval mode",
    "sequential": "layer by layer, in eval mode",
    "train": "batch statistics normalised, as in training",
}
_SHOWN = 4
_LEAST = 0.001  # standard deviations, below which digits say nothing


def view(report: RecalibrateReport) -> View:
    """Layers in call order, then the outcome, and what was left as it is."""
    return View(
        title=f"Statistics of {report.source.model} estimated from {report.source.batch or 'a batch'}",
        above=(versions(report.tool), _how(report)),
        tables=(_table(report),) if report.layers else (),
        below=(_outcome(report), *_predictions(report.predictions), *left(report.left), *_notes(report)),
    )


def _how(report: RecalibrateReport) -> str:
    images = f"{report.num_images:,} images{prepared(report.source)} in {plural(report.num_pieces, 'piece')}"
    return f"{images}; {report.how}: {_HOW[report.how]}, {plural(report.passes, 'estimate')}"


def _table(report: RecalibrateReport) -> Table:
    """Layers in call order; a column of zeros says nothing."""
    if not any(layer.nonfinite_before for layer in report.layers):
        return Table(columns=_COLUMNS, rows=tuple(map(_row, report.layers)))
    rows = tuple((*_row(layer), number(layer.nonfinite_before)) for layer in report.layers)
    return Table(columns=(*_COLUMNS, _NONFINITE), rows=rows)


def _row(layer: RecalibratedLayer) -> tuple[str, ...]:
    return (
        layer.path or layer.kind,
        number(layer.num_features),
        number(layer.count),
        number(layer.d_max_before),
        span(layer.r_min_before, layer.r_max_before),
        _small(layer.d_max),
        _near(layer.r_min, layer.r_max),
    )


def _small(d: float | None) -> str:
    return "-" if d is None else f"<{_LEAST}" if d < _LEAST else f"{d:.3f}"


def _near(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "-"
    return between(f"{low:.3f}", f"{high:.3f}")


def _outcome(report: RecalibrateReport) -> str:
    d = max((layer.d_max or 0 for layer in report.layers), default=0.0)
    low = min((layer.r_min or 0 for layer in report.layers), default=1.0)
    high = max((layer.r_max or 0 for layer in report.layers), default=1.0)
    found = f"|d| is {'below' if d < _LEAST else 'at most'} {max(d, _LEAST):.3f}, and r is {_near(low, high)}"
    if report.converged and not report.passes:
        return f"The statistics were those of the data already, and were not changed: {found}."
    if report.converged:
        return f"The statistics are those of the data: {found}."
    if report.how == "train":
        return f"In eval mode, {found}: the batches that normalised in the estimate are no more there."
    return (
        f"The statistics are not yet those of the data: {found}. Give more --passes, larger pieces (--batch-size), or "
        "--how sequential, which is exact."
    )


def _predictions(found: Predictions | None) -> tuple[str, ...]:
    if found is None:
        return ()
    changed = "came in another order" if found.changed is None else f"{100 * found.changed:.1f} % have changed"
    lines = [f"Predictions of {plural(found.num_images, 'image')}: {changed}."]
    if found.accuracy is not None and found.accuracy_before is not None:
        lines.append(
            f"Accuracy on {plural(found.num_labelled, 'labelled image')}: {100 * found.accuracy_before:.1f} % before, "
            f"{100 * found.accuracy:.1f} % after."
        )
    return tuple(lines)


def left(layers: tuple[LeftLayer, ...]) -> tuple[str, ...]:
    """A line for each reason why layers were left as they are."""
    reasons: dict[str, list[str]] = {}
    for layer in layers:
        reasons.setdefault(layer.reason, []).append(layer.path)
    return tuple(f"Left as {_they(paths)}, {reason}: {_named(paths)}" for reason, paths in reasons.items())


def _they(paths: list[str]) -> str:
    return "it is" if len(paths) == 1 else "they are"


def _named(paths: list[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(paths[:_SHOWN]) + more


def _notes(report: RecalibrateReport) -> tuple[str, ...]:
    written = (f"Written to {report.output}",) if report.output else ()
    return (*(f"Note: {note}" for note in report.notes), *written)
