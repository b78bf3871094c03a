"""Annotations for GitHub Actions: one workflow command per finding, as many as GitHub shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bninspect.render._check import told
from bninspect.render._check import verdict as summed
from bninspect.render._diff import value, verdict
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bninspect.report import CheckReport, DiffReport, Finding

SCHEMAS = ("bninspect.check", "bninspect.diff")
_LEVELS = {"error": "error", "warning": "warning", "info": "notice"}
_MOST = 10  # annotations of a level that GitHub shows for one step


def render(report: Any, *, color: bool, width: int | None) -> str:  # noqa: ARG001
    """Commands by severity, a plain line where a level has more than GitHub shows, and a line of counts."""
    if report.schema == "bninspect.diff":
        return "\n".join(_differences(report)) + "\n"
    lines = []
    for severity, level in _LEVELS.items():
        found = [finding for finding in report.findings if finding.severity == severity]
        lines += [_command(level, finding, report) for finding in found[:_MOST]]
        if len(found) > _MOST:
            lines.append(f"{len(found) - _MOST} more of level {level} are in the report, and not annotated")
    return "\n".join([*lines, f"bninspect check: {summed(report)}"]) + "\n"


def _command(level: str, finding: Finding, report: CheckReport) -> str:
    properties = {"title": f"{finding.code} {finding.name}"}
    if report.source.evidence != "module" and report.source.model:
        properties = {"file": report.source.model, **properties}
    text = "%0A".join(map(_data, told(finding)))
    shown = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    return f"::{level} {shown}::{text}"


def _differences(report: DiffReport) -> Iterator[str]:
    """An error for each, the rest in a line."""
    for found in report.differences[:_MOST]:
        title = _property(f"BatchNorm {found.what} {found.field or ''}".rstrip())
        text = _data(f"{found.path or 'the model'}: {value(found.a)} -> {value(found.b)}")
        yield f"::error title={title}::{text}"
    if len(report.differences) > _MOST:
        yield f"{len(report.differences) - _MOST} more differences are in the report, and not annotated"
    yield f"bninspect diff: {verdict(report)}"


def _data(text: str) -> str:
    """Text of a command: on one line, and its percent signs are none of ours."""
    return printable(text, 2000).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
