"""The page of ``stats``: distances over depth, all channels, and the channels of a layer; or a file's stored values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bninspect.render._view import number, view
from bninspect.render.html._rows import Rows
from bninspect.render.html._section import Content
from bninspect.render.html._together import How, Together, figures
from bninspect.render.html._together import together as over_each_other
from bninspect.render.html._vectors import pack, without
from bninspect.render.html.pictures.channels import channels, fields
from bninspect.render.html.pictures.depth import depth, of_stats
from bninspect.render.html.pictures.heat import heat
from bninspect.render.html.pictures.over_layers import Curve, over_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bninspect.render._view import Table
    from bninspect.render.html.pictures import Picture
    from bninspect.report import StatsLayer, StatsReport

_RANGES = (
    ("variance", "Variances", ("running_var_min", "running_var_max", "var_min", "var_max"), True),
    ("mean", "Means", ("running_mean_min", "running_mean_max", "mean_min", "mean_max"), False),
    ("weight", "Weight (gamma) and bias (beta)", ("weight_min", "weight_max", "bias_min", "bias_max"), False),
)

_DISTANCES: dict[str, How] = {
    "num_features": "exact", "d_median": "difference", "d_max": "difference", "r_median": "ratio", "dead": "difference",
}  # fmt: skip
_STORED: dict[str, How] = {
    "num_features": "exact", "running_mean_min": "difference", "running_mean_max": "difference",
    "running_var_min": "ratio", "running_var_max": "ratio", "weight_min": "difference", "weight_max": "difference",
    "bias_min": "difference", "bias_max": "difference",
}  # fmt: skip


def content(report: StatsReport) -> Content:
    """What stands on the page of one report."""
    plain = without(report)
    tables = view(plain).tables
    paths = tuple(layer.path or layer.kind for layer in report.layers)
    pictures = [depth(of_stats(report))] if _compared(report) else _ranges(report)
    full = heat(report)
    pictures += [full] if full else []
    return Content(
        verdict=_verdict(report, tables[0] if tables else None),
        pictures=tuple(pictures),
        layers=Rows(tables[0], paths) if tables else None,
        per_layer=channels(report.layers),
        vectors=pack(report, fields(report.layers)),
        lacks=_lacks(report),
    )


def together(reports: Sequence[StatsReport], labels: Sequence[str]) -> Together:
    """The distances of all reports in one picture; or of stored values, the ranges."""
    compared = all(map(_compared, reports))
    how = _DISTANCES if compared else _STORED
    lines = [of_stats(report, name) for report, name in zip(reports, labels, strict=True)] if compared else []
    found = [figures(report.layers, how) for report in reports]
    return over_each_other(found, labels, how, [depth(*lines)] if lines else [])


def _compared(report: StatsReport) -> bool:
    return any(layer.d_max is not None for layer in report.layers)


def _verdict(report: StatsReport, table: Table | None) -> str:
    """How many layers are marked in the table, and which is the worst."""
    if not report.layers:
        return "No BatchNorm layer was executed."
    count = f"{len(report.layers):,} layer{'s' * (len(report.layers) != 1)}"
    if not _compared(report):
        if report.num_images is None:
            return f"Stored values of {count}; nothing was run, so there is nothing to compare them with."
        return f"Statistics of {count}, which keep no running statistics to compare with."
    marked = {row for row, _ in table.levels} if table else set()
    worst = max(report.layers, key=_far)
    told = f"the mean is furthest off in {worst.path or worst.kind} (|d| up to {number(worst.d_max)})"
    if not marked:
        return f"In all of {count} the running statistics are near those of the batch: {told}."
    return f"In {len(marked):,} of {count} a figure is beyond the bound of its rule; {told}."


def _far(layer: StatsLayer) -> float:
    return -1.0 if layer.d_max is None else layer.d_max


def _ranges(report: StatsReport) -> list[Picture]:
    """Of a report that compares nothing: ranges over the channels of each layer."""
    paths = [layer.path or layer.kind for layer in report.layers]
    pictures = []
    for key, title, names, log in _RANGES:
        values = {name: tuple(getattr(layer, name) for layer in report.layers) for name in names}
        curves = [Curve(name, found) for name, found in values.items() if any(value is not None for value in found)]
        if curves:
            caption = "The least and the most over the channels of each layer."
            pictures.append(over_layers(key, title, caption, paths, curves, unit=key, log=log))
    return pictures


def _lacks(report: StatsReport) -> tuple[str, ...]:
    if any(layer.channels is not None for layer in report.layers) or not report.layers:
        return ()
    return ("The report holds no channels, so there is no picture of them: make it with --channels.",)
