"""The page of ``recalibrate``: how far each layer was from the data, and how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bninspect.render._view import view
from bninspect.render.html._rows import Rows
from bninspect.render.html._section import Content
from bninspect.render.html._together import How, Together, figures, of_model
from bninspect.render.html._together import together as over_each_other
from bninspect.render.html._vectors import pack
from bninspect.render.html.pictures.channels import against, spread
from bninspect.render.html.pictures.over_layers import Curve, over_layers, over_reports
from bninspect.report import bounds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bninspect.render.html.pictures import Picture
    from bninspect.report import RecalibrateReport

_OF_LAYER: dict[str, How] = {
    "num_features": "exact", "d_max_before": "difference", "r_min_before": "ratio", "r_max_before": "ratio",
    "d_max": "difference",
}  # fmt: skip
_HOW: dict[str, How] = {**_OF_LAYER, "accuracy before": "difference", "accuracy after": "difference"}

_FIELDS = (
    "running_mean_before", "running_mean", "running_var_before", "running_var", "d_before", "d", "r_before", "r",
)  # fmt: skip


def content(report: RecalibrateReport) -> Content:
    """What stands on the page of one report."""
    shown = view(report)
    paths = tuple(layer.path or layer.kind for layer in report.layers)
    held = any(layer.channels is not None for layer in report.layers)
    return Content(
        verdict=shown.below[0],
        pictures=_depth(report, paths) if paths else (),
        layers=Rows(shown.tables[0], paths) if paths else None,
        per_layer=_panel() if held else (),
        vectors=pack(report, _FIELDS),
    )


def together(reports: Sequence[RecalibrateReport], labels: Sequence[str]) -> Together:
    """How far the layers of all reports were from the data, a picture for d and for r."""
    how = "By how many running deviations the mean was off, at most.", "Of the data's deviation and the running one."
    by = dict(zip(labels, reports, strict=True))
    drawn = [
        over_reports("d_max_before", "Largest |d| of each layer, before", how[0], by, unit="|d| max"),
        over_reports("r_max_before", "Largest quotient r of each layer, before", how[1], by, unit="r max", log=True),
    ]
    found = [of_model(_whole(report)) | figures(report.layers, _OF_LAYER) for report in reports]
    return over_each_other(found, labels, _HOW, drawn)


def _whole(report: RecalibrateReport) -> dict[str, Any]:
    """What came of it."""
    seen = report.predictions
    accuracies = {"accuracy before": seen.accuracy_before, "accuracy after": seen.accuracy} if seen else {}
    return {"how": report.how, "converged": report.converged, **accuracies}


def _depth(report: RecalibrateReport, paths: tuple[str, ...]) -> tuple[Picture, ...]:
    before = Curve("before", tuple(layer.d_max_before for layer in report.layers))
    after = Curve("after", tuple(layer.d_max for layer in report.layers))
    ratios = [
        Curve(name.replace("_", " "), tuple(getattr(layer, name) for layer in report.layers))
        for name in ("r_max_before", "r_min_before", "r_max", "r_min")
    ]
    warn = [(bounds.D, "warning"), (bounds.D_BROKEN, "error")]
    off = [(bounds.R, "warning"), (1 / bounds.R, "warning"), (bounds.R_BROKEN, "error"), (1 / bounds.R_BROKEN, "error")]
    return (
        over_layers(
            "d",
            "Largest |d| of each layer, before and after",
            "By how many running deviations the mean of the data is off, at most; rules warn at the dashed line.",
            paths,
            (before, after),
            unit="|d| max",
            bounds=warn,
        ),
        over_layers(
            "r",
            "Range of r of each layer, before and after",
            "The quotient of the data's deviation and the running one; rules warn at the dashed lines.",
            paths,
            ratios,
            unit="r",
            log=True,
            bounds=off,
        ),
    )


def _panel() -> tuple[Picture, ...]:
    return (
        against("mean", "running_mean_before", "running_mean", "running_mean: before and after"),
        against("var", "running_var_before", "running_var", "running_var: before and after", log=True),
        spread("d_before", "d_before", "d over channels, before"),
        spread("d", "d", "d over channels, after"),
    )
