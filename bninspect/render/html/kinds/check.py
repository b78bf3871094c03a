"""The page of ``check``: which findings are where, each with why and what to do, and all layers that were judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from bninspect.render._check import causes, verdict
from bninspect.render.html._judged import judged
from bninspect.render.html._section import Content, anchored
from bninspect.render.html._vectors import pack
from bninspect.render.html.pictures.channels import channels, fields
from bninspect.render.html.pictures.depth import Line, depth
from bninspect.render.html.pictures.findings import findings
from bninspect.report.judged import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bninspect.render.html.pictures import Picture
    from bninspect.report import CheckReport


def content(report: CheckReport) -> Content:
    """What stands on the page of one report."""
    report = _named(report)
    told = anchored(finding for cause, followers in causes(report) for finding in (cause, *followers))
    pictures: tuple[Picture, ...] = (depth(_line(report)),) if _measured(report) else ()
    pictures += (findings(report),) if any(finding.layers for finding in report.findings) else ()
    return Content(
        verdict=verdict(report),
        pictures=pictures,
        findings=told,
        layers=judged(report, told),
        per_layer=channels(report.layers),
        vectors=pack(report, fields(report.layers)),
        lacks=_lacks(report),
    )


def together(reports: Sequence[CheckReport], labels: Sequence[str]) -> tuple[Picture, ...]:
    """The distances that were measured for all reports, in one picture."""
    if not all(map(_measured, reports)):
        return ()
    return (depth(*(_line(report, name) for report, name in zip(reports, labels, strict=True))),)


def _named(report: CheckReport) -> CheckReport:
    """The same with a name for what has no path: the model is its only layer, or a finding is of the model."""
    replace = msgspec.structs.replace
    alone = report.layers[0].path if len(report.layers) == 1 else "(model)"
    found = [
        replace(finding, layers=tuple(replace(place, path=place.path or alone) for place in finding.layers))
        for finding in report.findings
    ]
    return replace(report, findings=tuple(found))


def _measured(report: CheckReport) -> bool:
    return any(layer.d != UNKNOWN for layer in report.layers)


def _line(report: CheckReport, name: str = "") -> Line:
    return Line(report.layers, name=name)


def _lacks(report: CheckReport) -> tuple[str, ...]:
    if not report.layers or any(layer.channels is not None for layer in report.layers):
        return ()
    return ("The report holds no channels, so there is no picture of them: bninspect check --format html has them.",)
