"""All channels of all layers at once, as a heat map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bninspect.render.html.pictures import Picture, colorbar, label, rows_axis
from bninspect.report import bounds

if TYPE_CHECKING:
    from bninspect.report import StatsReport

_BOTH = [[0, "var(--low)"], [0.5, "var(--middle)"], [1, "var(--high)"]]
_ONE = [[0, "var(--middle)"], [1, "var(--high)"]]


def heat(report: StatsReport) -> Picture | None:
    """Layers by channels: d, log r, gamma and |z|, whichever the report holds."""
    known = [choice for choice in _choices(report) if choice is not None]
    if not known or any(layer.channels.index is not None for layer in report.layers if layer.channels is not None):
        return None  # of a choice of channels, no column would be one channel
    paths = [layer.path or layer.kind for layer in report.layers if layer.channels is not None]
    base = {
        "type": "heatmap", "zsmooth": False, "y0": 1,
        "hovertemplate": "%{customdata}<br>channel %{x}: %{z:.4g}<extra></extra>",
        "names": [label(path) for path in paths], "layers": paths,
    }  # fmt: skip
    return Picture(
        key="heat",
        title="All channels",
        caption="A row is a layer, the first one on top, and a click leads to it; a column is a channel. Colours end "
        "at the bounds of the rules or at the figure's own ends. The numbers of a row are in the panel of its layer.",
        traces=({**base, **known[0][1][0]},),
        layout={
            "xaxis": {"title": {"text": "channel"}, "zeroline": False, "showgrid": False},
            "yaxis": {**rows_axis(len(paths)), "showgrid": False},
        },
        choices=tuple(known),
        height=480,
    )


def _choices(report: StatsReport) -> list[tuple[str, tuple[dict[str, Any]]] | None]:
    log_r = float(np.log2(bounds.R_BROKEN))
    return [
        _choice(report, "d", "d", "d", bounds.D_BROKEN),
        _choice(report, "log2 r", "r", "log_r", log_r),
        _choice(report, "weight (gamma)", "weight", "weight", None),
        _choice(report, "|z|", "z", "abs_z", None, one_sided=True),
    ]


def _choice(
    report: StatsReport, name: str, field: str, shown: str, most: float | None, *, one_sided: bool = False
) -> tuple[str, tuple[dict[str, Any]]] | None:
    """Colours reach to the 99th percentile, and to the bound at most."""
    vectors = [getattr(layer.channels, field) for layer in report.layers if layer.channels is not None]
    known = [vector[np.isfinite(vector)] for vector in vectors if vector is not None]
    if not known or not sum(map(len, known)):
        return None
    sizes = np.abs(np.concatenate(known))
    if shown == "log_r":
        sizes = np.abs(np.log2(sizes[sizes > 0]))
    end = float(np.quantile(sizes, 0.99)) if len(sizes) else 1.0
    end = min(end, most) if most else end
    scale = {"colorscale": _ONE, "zmin": 0} if one_sided else {"colorscale": _BOTH, "zmin": -end}
    return name, ({"z": {"$rows": shown}, "zmax": end or 1.0, "colorbar": colorbar(name), **scale},)
