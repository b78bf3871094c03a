"""How a run is shown: where it stands, its layers with the worst first, and what went wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bninspect.render._check import where
from bninspect.render._view import Column, Entry, Table, View, flag, number, plural, span, versions

if TYPE_CHECKING:
    from bninspect.report import Alarm, WatchLayer, WatchReport

_COLUMNS = (
    Column("layer", "left"),
    Column("channels", "right", 5),
    Column("mode", "left", 2),
    Column("updates", "right", 4),
    Column("|d|", "right", 1),
    Column("|d| max"),
    Column("r", "right", 1),
    Column("r range", "right", 3),
    Column("running_mean", "right", 4),
    Column("running_var", "right", 2),
    Column("speed", "right", 3),
    Column("weight rms", "right", 4),
    Column("grad", "right", 5),
    Column("alarms", "left"),
)
_LAST = 4  # alarms on a screen
_AROUND = 12  # lines that are neither layers nor alarms
_LEAST = 3  # layers on a screen, however low it is
_STATES = {
    "running": "running",
    "ended": "ended",
    "failed": "ended by an error",
    "cut": "the process is gone, and did not say why",
}


def live(report: WatchReport, height: int) -> View:
    """What fits on a screen of so many lines: the worst layers, and a line for each of the last alarms."""
    whole, last = view(report), report.alarms[-_LAST:]
    room = max(height - _AROUND - 2 * len(last), _LEAST)
    tables = tuple(table._replace(rows=table.rows[:room]) for table in whole.tables)
    alarms = (f"step {one.step:,}: {one.code} ({one.severity}) {one.message}" for one in last)
    hidden = len(report.layers) - room
    more = (f"and {hidden:,} more layers",) if hidden > 0 else ()
    return whole._replace(above=whole.above[1:], tables=tables, entries=(), below=(*more, *alarms))


def view(report: WatchReport) -> View:
    """One line tells the state; layers at the last record; alarms in their order."""
    return View(
        title=f"Training of {report.model}, {report.run}",
        above=(versions(report.tool), _state(report), verdict(report), *_recorded(report)),
        tables=(Table(columns=_COLUMNS, rows=tuple(map(_row, report.layers))),) if report.recorded else (),
        entries=tuple(map(_entry, report.alarms)),
        below=(*_probed(report), *(f"Note: {note}" for note in report.notes)),
    )


def _state(report: WatchReport) -> str:
    speed = f", {report.steps_per_second:.3g} steps/s" if report.steps_per_second else ""
    why = f": {report.error}" if report.error else ""
    return f"step {report.step:,}, {_STATES[report.state]}{why}; {report.seconds:,.1f} s{speed}"


def _recorded(report: WatchReport) -> tuple[str, ...]:
    if report.recorded is None:
        return (f"no record yet: the first comes at step {report.every:,}",)
    scalars = ", ".join(f"{name} {number(value)}" for name, value in report.scalars.items())
    words = "d and r of its batch against the statistics before it"
    return (f"figures of step {report.recorded:,}{f' ({scalars})' if scalars else ''}; {words}",)


def _row(layer: WatchLayer) -> tuple[str, ...]:
    return (
        layer.path or layer.kind,
        number(layer.num_features),
        flag(layer.training, "train", "eval"),
        number(layer.updates),
        number(layer.d_median),
        number(layer.d_max),
        number(layer.r_median),
        span(layer.r_min, layer.r_max),
        span(layer.running_mean_min, layer.running_mean_max),
        span(layer.running_var_min, layer.running_var_max),
        number(layer.speed),
        number(layer.weight_rms),
        number(layer.weight_grad),
        " ".join(layer.alarms),
    )


def _entry(alarm: Alarm) -> Entry:
    return Entry(
        label=f"{alarm.severity:<7} {alarm.code}",
        head=f"step {alarm.step:,}: {alarm.message} ({alarm.name})",
        lines=(*(("where", line) for line in where(alarm)), ("do", alarm.fix)),
        level=alarm.severity,
    )


def verdict(report: WatchReport) -> str:
    """How many alarms there are, and when the first one was."""
    if not report.alarms:
        return "no alarm so far"
    found = [alarm.severity for alarm in report.alarms]
    counts = ", ".join(plural(found.count(level), level) for level in ("error", "warning", "info") if level in found)
    return f"{plural(len(found), 'alarm')} ({counts}), the first at step {report.alarms[0].step:,}"


def _probed(report: WatchReport) -> tuple[str, ...]:
    if report.probed is None:
        return ()
    codes = ", ".join(f"{finding.code} ({finding.severity})" for finding in report.findings) or "nothing"
    return (f"Probe of step {report.probed:,}: {codes}",)
