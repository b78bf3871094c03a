"""How findings are shown: a verdict, a paragraph for each cause, and a line about the rules that could not look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bninspect.render._view import Entry, View, number, plural, prepared, versions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bninspect.report import Alarm, CheckReport, Finding, Place

_LEVELS = ("error", "warning", "info")
_SHOWN = 3  # layers, or channels, that are named


def view(report: CheckReport) -> View:
    """Causes, the gravest first, each with what follows from it; why and what to do once for each rule."""
    explained: set[str] = set()
    entries = []
    for cause, followers in causes(report):
        entries.append(_entry(cause, followers, explain=cause.code not in explained))
        explained.add(cause.code)
    return View(
        title=f"Check of {report.source.model or 'stored layers'}"
        + (f" on {report.source.batch}" if report.source.batch else ""),
        above=(versions(report.tool), verdict(report)),
        entries=tuple(entries),
        below=(*passed_over(report), *(f"Note: {note}" for note in report.notes)),
    )


def causes(report: CheckReport) -> list[tuple[Finding, list[Finding]]]:
    """Findings that follow from no other, with those that follow from them; the gravest of either first."""
    roots = [finding for finding in report.findings if not finding.explained_by]
    groups: dict[int, list[Finding]] = {id(root): [] for root in roots}
    for finding in report.findings:
        if finding.explained_by:
            root = next(one for one in roots if one.code in finding.explained_by)
            groups[id(root)].append(finding)
    return sorted(
        ((root, groups[id(root)]) for root in roots),
        key=lambda group: min(_LEVELS.index(finding.severity) for finding in (group[0], *group[1])),
    )


def verdict(report: CheckReport) -> str:
    """``1 cause, 3 findings: 1 error, 2 warnings in 53 BatchNorm layers``, or by how many rules nothing was found."""
    where = plural(report.num_layers, "BatchNorm layer")
    where += f" and {plural(report.num_images, 'image')}{prepared(report.source)}" if report.num_images else ""
    if not report.num_layers:
        return f"Nothing to check: there is no BatchNorm layer{where.removeprefix('0 BatchNorm layers')}"
    found = [finding.severity for finding in report.findings]
    counts = ", ".join(plural(found.count(level), level) for level in _LEVELS if level in found)
    if set(found) <= {"info"}:
        looked = len(report.rules) - len({one.code for one in report.silent if not one.layers})
        told = f" ({counts})" if found else ""
        return f"Nothing wrong found by {looked} of {len(report.rules)} rules{told} in {where}"
    roots = len(causes(report))
    first = f"{plural(roots, 'cause')}, " if roots < len(found) else ""
    return f"{first}{plural(len(found), 'finding')}: {counts} in {where}"


def passed_over(report: CheckReport) -> list[str]:
    """In one line, how many rules did not look, and what they would need."""
    if not report.num_layers or not report.silent:
        return []
    needs: dict[str, set[str]] = {}
    reasons = set()
    for silent in report.silent:
        if not silent.layers:
            needs.setdefault(silent.needs or "", set()).add(silent.code)
            reasons |= {silent.reason} if silent.needs is None else set()
    partly = {silent.code for silent in report.silent}.difference(*needs.values())
    others = needs.pop("", set())
    because = f" ({next(iter(reasons))})" if len(reasons) == 1 else ""
    parts = [f"{_rules(codes)} {'needs' if len(codes) == 1 else 'need'} {need}" for need, codes in needs.items()]
    parts += [f"{_rules(others)} {'does' if len(others) == 1 else 'do'} not apply{because}"] if others else []
    parts += [f"{_rules(partly)} passed over some layers"] if partly else []
    return [f"Not looked at: {', '.join(parts)}; -v lists them"]


def _rules(codes: set[str]) -> str:
    return plural(len(codes), "rule")


def silences(report: CheckReport) -> list[str]:
    """Rules that could not look, a line for each reason."""
    reasons: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for silent in report.silent:
        reasons.setdefault((silent.reason, silent.layers), []).append(silent.code)
    return [
        f"not applied: {'any rule' if codes == list(report.rules) else ', '.join(codes)}"
        + (f" to {_first(layers)}" if layers else "")
        + f", because {reason}"
        for (reason, layers), codes in reasons.items()
    ]


def _entry(finding: Finding, followers: list[Finding], *, explain: bool) -> Entry:
    lines = [("where", line) for line in where(finding)]
    lines += [("then", follow(followers))] if followers else []
    lines += [(label, text) for label, text in (("why", finding.why), ("do", finding.fix)) if text and explain]
    head = f"{finding.message} ({finding.name})"
    return Entry(label=f"{finding.severity:<7} {finding.code}", head=head, lines=tuple(lines), level=finding.severity)


def follow(followers: list[Finding]) -> str:
    """``BN401 (error) in 9 layers and BN404 (warning) follow from it``; the gravest level of each."""
    codes: dict[str, list[Finding]] = {}
    for finding in followers:
        codes.setdefault(finding.code, []).append(finding)
    names = []
    for code, found in codes.items():
        layers = sum(len(finding.layers) for finding in found)
        level = min((finding.severity for finding in found), key=_LEVELS.index)
        names.append(f"{code} ({level})" + (f" in {plural(layers, 'layer')}" if layers else ""))
    text = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    return f"{text} {'follow' if len(names) > 1 else 'follows'} from it"


def where(finding: Finding | Alarm) -> list[str]:
    """Layers with their numbers, those of the same numbers on one line; the first ones, and how many more."""
    if not finding.layers:
        return [_with("the model", finding.told, finding.evidence)]
    groups: dict[tuple[object, ...], list[Place]] = {}
    for place in finding.layers:
        groups.setdefault((place.channels, place.told, *place.evidence.items()), []).append(place)
    shown = list(groups.values())
    lines = [_with(_names(places), places[0].told, places[0].evidence) for places in shown[:_SHOWN]]
    rest = sum(map(len, shown[_SHOWN:]))
    return [*lines, f"and {plural(rest, 'more layer')} (csv and json list all)"] if rest else lines


def told(finding: Finding) -> list[str]:
    """A finding in lines, for formats that have no labels: what, where and how much, from what, why, what to do."""
    first, *others = where(finding)
    source = [f"It follows from {', '.join(finding.explained_by)}."] if finding.explained_by else []
    return [f"{finding.message}, in {first}", *others, *source, *(text for text in (finding.why, finding.fix) if text)]


def _with(name: str, told: str, evidence: dict[str, float | int | None]) -> str:
    numbers = ", ".join(f"{key} {number(value)}" for key, value in evidence.items() if key != "num_channels")
    if told and numbers:
        return f"{name}: {told} ({numbers})"
    return f"{name}: {told or numbers}" if told or numbers else name


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
