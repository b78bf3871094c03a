"""How findings are shown: a paragraph each, the gravest first, then the rules that could not look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bninspect.render._view import Entry, View, number, prepared, versions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bninspect.report import CheckReport, Finding, Place

_SHOWN = 3  # layers, or channels, that are named


def view(report: CheckReport) -> View:
    """Findings, the gravest first; why and what to do once for each rule."""
    explained: set[str] = set()
    entries = []
    for finding in report.findings:
        entries.append(_entry(finding, explain=finding.code not in explained))
        explained.add(finding.code)
    return View(
        title=f"Check of {report.source.model or 'stored layers'}"
        + (f" on {report.source.batch}" if report.source.batch else ""),
        above=(versions(report.tool), counts(report)),
        entries=(*entries, *_silent(report)),
        below=tuple(f"Note: {note}" for note in report.notes),
    )


def counts(report: CheckReport) -> str:
    """``1 error, 2 warnings, 0 infos in 53 layers``."""
    found = [finding.severity for finding in report.findings]
    parts = [_plural(found.count(severity), severity) for severity in ("error", "warning", "info")]
    images = f" and {_plural(report.num_images, 'image')}{prepared(report.source)}" if report.num_images else ""
    return f"{', '.join(parts)} in {_plural(report.num_layers, 'BatchNorm layer')}{images}"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _entry(finding: Finding, *, explain: bool) -> Entry:
    lines = [("where", line) for line in where(finding)]
    lines += [(label, text) for label, text in (("why", finding.why), ("do", finding.fix)) if text and explain]
    head = f"{finding.message} ({finding.name})"
    return Entry(label=f"{finding.severity:<7} {finding.code}", head=head, lines=tuple(lines), level=finding.severity)


def where(finding: Finding) -> list[str]:
    """Layers with their numbers, those of the same numbers on one line; the first ones, and how many more."""
    if not finding.layers:
        return [_with("the model", finding.evidence)]
    groups: dict[tuple[object, ...], list[Place]] = {}
    for place in finding.layers:
        groups.setdefault((place.channels, *place.evidence.items()), []).append(place)
    shown = list(groups.values())
    lines = [_with(_names(places), places[0].evidence) for places in shown[:_SHOWN]]
    rest = sum(map(len, shown[_SHOWN:]))
    return [*lines, f"and {_plural(rest, 'more layer')} (csv and json list all)"] if rest else lines


def told(finding: Finding) -> list[str]:
    """A finding in lines, for formats that have no labels: what, where and how much, why, what to do."""
    first, *others = where(finding)
    return [f"{finding.message}, in {first}", *others, *(text for text in (finding.why, finding.fix) if text)]


def _with(name: str, evidence: dict[str, float | int | None]) -> str:
    numbers = ", ".join(f"{key} {number(value)}" for key, value in evidence.items() if key != "num_channels")
    return f"{name}: {numbers}" if numbers else name


def _names(places: list[Place]) -> str:
    """The first paths, and the channels that they share."""
    text = _first([place.path or "(model)" for place in places])
    channels = places[0].channels
    if not channels:
        return text
    return f"{text} [{'channels' if len(channels) > 1 else 'channel'} {_first(channels)}]"


def _first(things: Sequence[str | int]) -> str:
    more = len(things) - _SHOWN
    return ", ".join(map(str, things[:_SHOWN])) + (f" and {more:,} more" if more > 0 else "")


def _silent(report: CheckReport) -> tuple[Entry, ...]:
    """Rules that could not look, by their reason."""
    reasons: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for silent in report.silent:
        reasons.setdefault((silent.reason, silent.layers), []).append(silent.code)
    return tuple(
        Entry(
            label="not applied",
            head="any rule" if codes == list(report.rules) else ", ".join(codes),
            lines=(*((("to", _first(layers)),) if layers else ()), ("because", reason)),
        )
        for (reason, layers), codes in reasons.items()
    )
