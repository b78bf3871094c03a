"""The page of ``summary``: how wide the layers are, and how many parameters they have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bninspect.render._view import number, view
from bninspect.render.html._rows import Rows
from bninspect.render.html._section import Content
from bninspect.render.html._together import Together, figures, of_model
from bninspect.render.html._together import together as over_each_other
from bninspect.render.html.pictures.over_layers import Curve, over_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bninspect.render.html.pictures import Picture
    from bninspect.report import SummaryLayer, SummaryReport

_COMPARED = (
    "kind", "input_shape", "output_shape", "num_parameters", "trainable", "training", "num_features", "eps",
    "momentum", "affine", "track_running_stats",
)  # fmt: skip


def content(report: SummaryReport) -> Content:
    """What stands on the page of one report."""
    tables = view(report).tables
    return Content(
        verdict=_verdict(report),
        pictures=_widths(report),
        layers=Rows(tables[0], tuple(map(_path, report.layers))) if tables else None,
    )


def together(reports: Sequence[SummaryReport], labels: Sequence[str]) -> Together:
    """The channels of all models in one picture; and which settings and sizes are others."""
    norms = [{_path(layer): layer for layer in report.layers if layer.is_batchnorm} for report in reports]
    paths = list(dict.fromkeys(path for own in norms for path in own))
    curves = [Curve(label, tuple(own[path].num_features if path in own else None for path in paths))
              for own, label in zip(norms, labels, strict=True)]  # fmt: skip
    caption = "A point is a BatchNorm layer, by its path; layers of the first report come first."
    picture = over_layers("widths", "Channels of each BatchNorm layer", caption, paths, curves, unit="channels")
    found = [of_model(_totals(report)) | figures(report.layers, _COMPARED) for report in reports]
    return over_each_other(found, labels, {}, [picture] if paths else [])


def _totals(report: SummaryReport) -> dict[str, Any]:
    return {name: getattr(report.totals, name) for name in report.totals.__struct_fields__}


def _path(layer: SummaryLayer) -> str:
    return layer.path or layer.name


def _verdict(report: SummaryReport) -> str:
    totals = report.totals
    text = f"{totals.num_batchnorm:,} BatchNorm layer{'s' * (totals.num_batchnorm != 1)}"
    if totals.num_batchnorm_train is not None and totals.num_batchnorm:
        text += f", {number(totals.num_batchnorm_train)} in train and {number(totals.num_batchnorm_eval)} in eval mode"
    if totals.num_parameters:
        share = 100 * totals.num_batchnorm_parameters / totals.num_parameters
        text += f"; they have {share:.2g} % of {totals.num_parameters:,} parameters"
    return f"{text}."


def _widths(report: SummaryReport) -> tuple[Picture, ...]:
    norms = [layer for layer in report.layers if layer.is_batchnorm]
    if not norms:
        return ()
    trained = [layer.num_features if layer.training else None for layer in norms]
    fixed = [None if layer.training else layer.num_features for layer in norms]
    curves = [
        Curve(name, tuple(values), "bar")
        for name, values in (("train mode, or unknown", trained), ("eval mode", fixed))
        if any(values)
    ]
    picture = over_layers(
        "widths",
        "Channels of each BatchNorm layer",
        "A bar is a call of a layer, in call order; its height is the number of channels.",
        list(map(_path, norms)),
        curves,
        unit="channels",
    )
    return (picture,)
