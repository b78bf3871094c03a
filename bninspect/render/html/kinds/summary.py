"""The page of ``summary``: how wide the layers are, and how many parameters they have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bninspect.render._view import number, view
from bninspect.render.html._section import Content, Rows
from bninspect.render.html.pictures.over_layers import Curve, over_layers

if TYPE_CHECKING:
    from bninspect.render.html.pictures import Picture
    from bninspect.report import SummaryReport


def content(report: SummaryReport) -> Content:
    """What stands on the page of one report."""
    tables = view(report).tables
    return Content(
        verdict=_verdict(report),
        pictures=_widths(report),
        layers=Rows(tables[0], tuple(layer.path or layer.name for layer in report.layers)) if tables else None,
    )


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
        [layer.path or layer.name for layer in norms],
        curves,
        unit="channels",
    )
    return (picture,)
