"""Annotations for GitHub Actions: one workflow command per finding, as many as GitHub shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bninspect.render._check import counts, where
from bninspect.text import printable

if TYPE_CHECKING:
    from bninspect.report import CheckReport, Finding

SCHEMAS = ("bninspect.check",)
_LEVELS = {"error": "error", "warning": "warning", "info": "notice"}
_MOST = 10  # annotations of a level that GitHub shows for one step


def render(report: CheckReport, *, color: bool, width: int | None) -> str:  # noqa: ARG001
    """Commands by severity, a plain line where a level has more than GitHub shows, and a line of counts."""
    lines = []
    for severity, level in _LEVELS.items():
        found = [finding for finding in report.findings if finding.severity == severity]
        lines += [_command(level, finding, report) for finding in found[:_MOST]]
        if len(found) > _MOST:
            lines.append(f"{len(found) - _MOST} more of level {level} are in the report, and not annotated")
    return "\n".join([*lines, f"bninspect check: {counts(report)}"]) + "\n"


def _command(level: str, finding: Finding, report: CheckReport) -> str:
    properties = {"title": f"{finding.code} {finding.name}"}
    if report.source.evidence != "module" and report.source.model:
        properties = {"file": report.source.model, **properties}
    shown = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    return f"::{level} {shown}::{_data(f'{where(finding)}: {finding.message}. {finding.fix}')}"


def _data(text: str) -> str:
    """Text of a command: on one line, and its percent signs are none of ours."""
    return printable(text, 2000).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
