"""The page of a training run's last state: distances of its layers, and its alarms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bninspect.render._view import view
from bninspect.render._watch import verdict
from bninspect.render.html._rows import Rows
from bninspect.render.html._section import Content, anchored
from bninspect.render.html._together import How, Together, figures, of_model
from bninspect.render.html._together import together as over_each_other
from bninspect.render.html._vectors import Vectors, packed
from bninspect.render.html.pictures import label
from bninspect.render.html.pictures.course import lines, runs
from bninspect.render.html.pictures.over_layers import Curve, over_layers
from bninspect.render.html.pictures.steps import of_layer, whole
from bninspect.report import Finding, bounds
from bninspect.report.course import WatchCourse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bninspect.render.html.pictures import Picture
    from bninspect.report import Alarm, WatchReport

_HOW: dict[str, How] = {
    "num_features": "exact", "training": "exact", "d_median": "difference", "d_max": "difference", "r_median": "ratio",
    "weight_rms": "ratio",
}  # fmt: skip


def content(found: WatchReport | WatchCourse) -> Content:
    """What stands on the page of a run's last state, and where its lines were read, of all of it."""
    course = found if isinstance(found, WatchCourse) and found.steps else None
    report = found.report if isinstance(found, WatchCourse) else found
    tables = view(report).tables
    paths = tuple(layer.path or layer.kind for layer in report.layers)
    return Content(
        verdict=verdict(report),
        pictures=(lines(course), whole(course)) if course else _distances(report, paths) if tables else (),
        layers=Rows(tables[0], paths) if tables else None,
        findings=anchored(map(_finding, report.alarms)),
        found="Alarms",
        per_layer=of_layer(len(course.steps)) if course else (),
        vectors=_vectors(course) if course else None,
    )


def together(found: Sequence[WatchReport | WatchCourse], labels: Sequence[str]) -> Together:
    """What most layers of each run did over its steps; the figures of the last step, and when each alarm came first."""
    courses = [one for one in found if isinstance(one, WatchCourse) and one.steps]
    reports = [one.report if isinstance(one, WatchCourse) else one for one in found]
    drawn = [runs(courses, labels)] if len(courses) == len(found) else []
    figures_of = [_first(report) | figures(report.layers, _HOW) for report in reports]
    return over_each_other(figures_of, labels, _HOW, drawn)


def _first(report: WatchReport) -> dict[tuple[str, str], Any]:
    """Where the run ended, and the step of the first alarm of each rule."""
    steps: dict[str, Any] = {}
    for alarm in report.alarms:
        steps.setdefault(f"first alarm of {alarm.code}", f"step {alarm.step:,}")
    return of_model({"state": report.state, "last step": f"{report.step:,}", **steps})


def _vectors(course: WatchCourse) -> Vectors:
    """The figures of each layer over the steps, and its alarms."""
    size = len(course.steps)
    rows = []
    for at, path in enumerate(course.paths):
        found = [alarm for alarm in course.report.alarms if any(place.path == path for place in alarm.layers)]
        own = {"zero": [0] * len(found), "one": [1] * len(found), "codes": [label(alarm.code) for alarm in found]}
        alarms = [alarm.step for alarm in found]
        rows.append(
            {"path": path, "label": label(path), "size": size, "start": at * size, "eps": 0, "alarms": alarms, **own}
        )
    steps = np.tile(np.asarray(course.steps, np.float64), len(course.paths))
    block = packed([steps, *(figure.T.ravel() for figure in course.figures.values())])
    worst = next((layer.path for layer in course.report.layers if layer.path in course.paths), course.paths[0])
    return Vectors(("index", *course.figures), tuple(rows), block, unit="step", chosen=course.paths.index(worst))


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
