"""The page of ``noise``: tau squared over depth, and over the batch size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bninspect.render._view import view
from bninspect.render.html._rows import Rows
from bninspect.render.html._section import Content
from bninspect.render.html._together import How, Together, figures, of_model
from bninspect.render.html._together import together as over_each_other
from bninspect.render.html._vectors import pack
from bninspect.render.html.pictures import COLOURS, DASHES, SYMBOLS, Picture
from bninspect.render.html.pictures.channels import spread
from bninspect.render.html.pictures.over_layers import Curve, over_layers, over_reports

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bninspect.report import NoiseReport

_HOW: dict[str, How] = {"num_features": "exact", "shift": "ratio", "shift_p95": "ratio", "scale": "ratio"}


def content(report: NoiseReport) -> Content:
    """What stands on the page of one report."""
    shown = view(report)
    paths = tuple(layer.path or layer.kind for layer in report.layers)
    held = any(layer.channels is not None for layer in report.layers)
    return Content(
        verdict=shown.below[0],
        pictures=(_depth(report, paths), *_sizes(report)) if paths else (),
        layers=Rows(shown.tables[0], paths) if paths else None,
        per_layer=(spread("shift", "shift", "Shift over channels"), spread("scale", "scale", "Scale over channels"))
        if held
        else (),
        vectors=pack(report, ("mean", "var", "shift", "scale")),
    )


def together(reports: Sequence[NoiseReport], labels: Sequence[str]) -> Together:
    """Shift and scale of all reports, a picture each."""
    caption = "tau squared, the median over channels. The numbers are in the table of what differs, too."
    drawn = [
        over_reports(
            name,
            f"{name.capitalize()} over depth",
            caption,
            dict(zip(labels, reports, strict=True)),
            unit="tau squared",
            log=True,
        )
        for name in ("shift", "scale")
    ]
    found = [of_model({"batch_size": report.batch_size}) | figures(report.layers, _HOW) for report in reports]
    return over_each_other(found, labels, _HOW, drawn)


def _depth(report: NoiseReport, paths: tuple[str, ...]) -> Picture:
    curves = [
        Curve(name, tuple(getattr(layer, name) for layer in report.layers))
        for name in ("shift", "scale", "shift_p95", "scale_p95", "shift_iid")
    ]
    return over_layers(
        "depth",
        f"Noise over depth, at a batch size of {report.batch_size}",
        "tau squared, the variance over batches in parts of a channel's own: of its mean (shift) and of its deviation "
        "(scale); medians and 95th percentiles over channels. shift_iid is what independent positions would give.",
        paths,
        curves,
        unit="tau squared",
        log=True,
    )


def _sizes(report: NoiseReport) -> tuple[Picture, ...]:
    """Its numbers are the second table of the page."""
    if not report.scaled:
        return ()
    x = [size.batch_size for size in report.scaled]
    traces = [
        {
            "type": "scatter", "mode": "lines+markers", "name": name, "x": x,
            "y": [getattr(size, name) for size in report.scaled],
            "line": {"color": COLOURS[index], "dash": DASHES[index]},
            "marker": {"symbol": SYMBOLS[index], "size": 7},
            "hovertemplate": "batch size %{x}: %{y:.4g}<extra>%{fullData.name}</extra>",
        }
        for index, name in enumerate(("shift", "scale", "shift_max", "scale_max"))
    ]  # fmt: skip
    axis = {"title": {"text": "batch size"}, "type": "log", "tickvals": x, "ticktext": [str(size) for size in x]}
    picture = Picture(
        key="sizes",
        title="Noise over the batch size",
        caption="Computed from what was measured: the median over layers, and the most. The numbers are in the table "
        "of batch sizes.",
        traces=tuple(traces),
        layout={"xaxis": axis, "yaxis": {"title": {"text": "tau squared"}, "type": "log"}},
    )
    return (picture,)
