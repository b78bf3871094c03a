"""The page of ``check``: which findings are where, each with why and what to do, and all layers that were judged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from bninspect.render._check import causes, verdict
from bninspect.render._view import Column, Table, plural
from bninspect.render.html._judged import judged
from bninspect.render.html._section import Content, anchored
from bninspect.render.html._together import How, Together, of_model
from bninspect.render.html._together import together as over_each_other
from bninspect.render.html._vectors import pack
from bninspect.render.html.pictures.channels import channels, fields
from bninspect.render.html.pictures.depth import Line, depth
from bninspect.render.html.pictures.findings import findings
from bninspect.report.judged import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bninspect.render.html.pictures import Picture
    from bninspect.report import CheckReport

_NAMED = 3  # layers that are named
_HOW: dict[str, How] = {"d median": "difference", "r median": "ratio"}


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
        folded=_silent(report),
    )


def together(reports: Sequence[CheckReport], labels: Sequence[str]) -> Together:
    """The distances that were measured for all reports, in one picture; and which findings are in which of them."""
    named = [_named(report) for report in reports]
    measured = all(map(_measured, named))
    lines = [_line(report, name) for report, name in zip(named, labels, strict=True)] if measured else []
    return over_each_other([_found(report) for report in named], labels, _HOW, [depth(*lines)] if lines else [])


def _found(report: CheckReport) -> dict[tuple[str, str], Any]:
    """The codes of each layer and of the model, and the medians of what was measured."""
    codes: dict[str, set[str]] = {layer.path: set() for layer in report.layers}
    whole: dict[str, set[str]] = {"findings": set()}
    for finding in report.findings:
        if not finding.layers:
            whole["findings"].add(finding.code)
        for path in (place.path for place in finding.layers):
            own = codes[path] if path in codes else whole.setdefault(f"findings in {path}", set())
            own.add(finding.code)
    found: dict[tuple[str, str], Any] = of_model({name: _listed(own) for name, own in whole.items()})
    for layer in report.layers:
        figures = {"findings": _listed(codes[layer.path]), "d median": layer.d[1], "r median": layer.r[1]}
        found |= {(layer.path, name): value for name, value in figures.items()}
    return found


def _listed(codes: set[str]) -> str | None:
    return ", ".join(sorted(codes)) or None


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


def _silent(report: CheckReport) -> tuple[tuple[str, Table], ...]:
    """Each rule that could not look, or not at all layers, and why."""
    rows = tuple((f"{one.code} {one.name}", _few(one.layers), one.reason) for one in report.silent)
    heads = (Column("rule", "left"), Column("layers", "left"), Column("why not", "left"))
    return (("Rules that did not look at everything", Table(heads, rows)),) if rows else ()


def _few(paths: tuple[str, ...]) -> str:
    return ", ".join(paths) or "-" if len(paths) <= _NAMED else plural(len(paths), "layer")


def _lacks(report: CheckReport) -> tuple[str, ...]:
    if not report.layers or any(layer.channels is not None for layer in report.layers):
        return ()
    return ("The report holds no channels, so there is no picture of them: bninspect check --format html has them.",)
