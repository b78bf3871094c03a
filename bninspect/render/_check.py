"""How findings are shown: one row each, then what to do about them, then the rules that could not look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bninspect.render._view import Column, Table, View, number, versions

if TYPE_CHECKING:
    from bninspect.report import CheckReport, Finding

_COLUMNS = (
    Column("severity", "left"),
    Column("code", "left"),
    Column("name", "left", 2),
    Column("where", "left"),
    Column("finding", "left"),
    Column("evidence", "left", 1),
)
_SHOWN = 3  # layers, or channels, that are named


def view(report: CheckReport) -> View:
    """Findings, the gravest first."""
    rows = tuple(_row(finding) for finding in report.findings)
    fixes = {finding.code: f"{finding.code}: {finding.fix}" for finding in report.findings if finding.fix}
    return View(
        title=f"Check of {report.source.model or 'stored layers'}"
        + (f" on {report.source.batch}" if report.source.batch else ""),
        above=(versions(report.tool), counts(report)),
        tables=(Table(columns=_COLUMNS, rows=rows),) if rows else (),
        below=(*fixes.values(), *_silent(report), *(f"Note: {note}" for note in report.notes)),
    )


def counts(report: CheckReport) -> str:
    """``1 error, 2 warnings, 0 infos in 53 layers``."""
    found = [finding.severity for finding in report.findings]
    parts = [_plural(found.count(severity), severity) for severity in ("error", "warning", "info")]
    images = f" and {report.num_images:,} images" if report.num_images else ""
    return f"{', '.join(parts)} in {_plural(report.num_layers, 'BatchNorm layer')}{images}"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _row(finding: Finding) -> tuple[str, ...]:
    return (
        finding.severity,
        finding.code,
        finding.name,
        where(finding),
        finding.message,
        ", ".join(f"{name} {number(value)}" for name, value in finding.evidence.items()) or "-",
    )


def where(finding: Finding) -> str:
    """The first layers, and how many more; the channels where it is one layer."""
    if not finding.layers:
        return "model"
    paths = [place.path or "(model)" for place in finding.layers]
    text = ", ".join(paths[:_SHOWN])
    if len(paths) > _SHOWN:
        return f"{text} and {len(paths) - _SHOWN} more"
    if len(paths) == 1 and finding.channels:
        more = len(finding.channels) - _SHOWN
        text += f" [{', '.join(map(str, finding.channels[:_SHOWN]))}{f' and {more} more' if more > 0 else ''}]"
    return text


def _silent(report: CheckReport) -> tuple[str, ...]:
    """Rules that could not look, by their reason."""
    reasons: dict[str, list[str]] = {}
    for silent in report.silent:
        reasons.setdefault(silent.reason, []).append(silent.code)
    return tuple(f"Not applied: {', '.join(codes)}: {reason}" for reason, codes in reasons.items())
