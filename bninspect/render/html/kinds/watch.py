"""The page of a training run's last state: distances of its layers, and its alarms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bninspect.render._view import view
from bninspect.render._watch import verdict
from bninspect.render.html._section import Content, Rows, anchored
from bninspect.render.html.pictures.over_layers import Curve, over_layers
from bninspect.report import Finding, bounds

if TYPE_CHECKING:
    from bninspect.render.html.pictures import Picture
    from bninspect.report import Alarm, WatchReport


def content(report: WatchReport) -> Content:
    """What stands on the page of one report."""
    tables = view(report).tables
    paths = tuple(layer.path or layer.kind for layer in report.layers)
    return Content(
        verdict=verdict(report),
        pictures=_distances(report, paths) if tables else (),
        layers=Rows(tables[0], paths) if tables else None,
        findings=anchored(map(_finding, report.alarms)),
    )


def _distances(report: WatchReport, paths: tuple[str, ...]) -> tuple[Picture, ...]:
    curves = [Curve(name, tuple(getattr(layer, name) for layer in report.layers)) for name in ("d_median", "d_max")]
    picture = over_layers(
        "distances",
        f"How far the batch of step {report.recorded:,} is from the statistics before it",
        "|d| over channels, its median and the most; rules warn at the dashed line. Layers with alarms come first.",
        paths,
        curves,
        unit="|d|",
        bounds=[(bounds.D, "warning"), (bounds.D_BROKEN, "error")],
    )
    return (picture,)


def _finding(alarm: Alarm) -> Finding:
    return Finding(
        code=alarm.code,
        name=alarm.name,
        severity=alarm.severity,
        message=f"step {alarm.step:,}: {alarm.message}",
        told=alarm.told,
        fix=alarm.fix,
        layers=alarm.layers,
    )
