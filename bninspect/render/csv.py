"""Comma-separated values for spreadsheets: every field of every row, at full precision."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from bninspect.render._view import EVERY, listed
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bninspect.report import CheckReport, Report, StatsLayer, StatsReport, Struct

SCHEMAS = EVERY


def render(report: Report, *, color: bool, width: int | None) -> str:  # noqa: ARG001
    """A line of heads, then one line per row; nothing known is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for row in _rows(report):
        writer.writerow([_cell(value) for value in row])
    return out.getvalue()


def _rows(report: Any) -> Iterator[list[Any]]:
    if report.schema == "bninspect.check":
        yield from _findings(report)
        return
    if report.schema == "bninspect.stats" and any(layer.channels is not None for layer in report.layers):
        yield from _channels(report)
        return
    names = [name for name in _fields(report) if name != "channels"]
    yield names
    for entry in report.differences if report.schema == "bninspect.diff" else report.layers:
        yield [getattr(entry, name) for name in names]


def _findings(report: CheckReport) -> Iterator[list[Any]]:
    """One line per finding and layer; evidence as ``name=value``, channels by their numbers."""
    yield ["code", "name", "severity", "path", "channels", "message", "evidence", "why", "fix"]
    for finding in report.findings:
        kind = [finding.code, finding.name, finding.severity]
        for place in finding.layers or (finding,):
            channels = None if place.channels is None else " ".join(map(str, place.channels))
            evidence = " ".join(f"{name}={value!r}" for name, value in place.evidence.items())
            yield [*kind, place.path, channels, finding.message, evidence, finding.why, finding.fix]


def _fields(report: Any) -> tuple[str, ...]:
    from bninspect.report import Difference, NoiseLayer, RecalibratedLayer, StatsLayer, SummaryLayer, WatchLayer

    rows: dict[str, type[Struct]] = {
        "bninspect.summary": SummaryLayer,
        "bninspect.stats": StatsLayer,
        "bninspect.diff": Difference,
        "bninspect.recalibrate": RecalibratedLayer,
        "bninspect.noise": NoiseLayer,
        "bninspect.watch": WatchLayer,
    }
    return rows[report.schema].__struct_fields__


def _channels(report: StatsReport) -> Iterator[list[Any]]:
    from bninspect.report import Channels

    names = [name for name in Channels.__struct_fields__ if name != "index"]
    yield ["path", "kind", "channel", *names]
    for layer in report.layers:
        yield from _channel_rows(layer, names)


def _channel_rows(layer: StatsLayer, names: list[str]) -> Iterator[list[Any]]:
    channels = layer.channels
    vectors = [None if channels is None else getattr(channels, name) for name in names]
    index = range(layer.num_features) if channels is None or channels.index is None else channels.index
    for position, channel in enumerate(index):
        yield [
            layer.path,
            layer.kind,
            int(channel),
            *(None if vector is None else vector[position].item() for vector in vectors),
        ]


def _cell(value: Any) -> Any:
    """Text that a spreadsheet takes as text: a name that starts like a formula is quoted."""
    if isinstance(value, (tuple, list)):
        value = str(listed(value))
    if isinstance(value, str):
        text = printable(value)
        return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text
    return value
