"""The record of a run, read while it is written: full lines alone, so that one cut in the middle does no harm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from bninspect.errors import SourceError
from bninspect.inspection.watch.locks import in_use
from bninspect.report import (
    Alarm,
    WatchEnd,
    WatchHeader,
    WatchLayer,
    WatchLine,
    WatchProbe,
    WatchRecord,
    WatchReport,
)
from bninspect.text import printable

if TYPE_CHECKING:
    from pathlib import Path

_PIECE = 1 << 20
_LONGEST = 1 << 26  # bytes of a line
_START = b'{"event":"header"'
_LINE = msgspec.json.Decoder(WatchLine)
_VERSION = 1
SEVERITIES = ("error", "warning", "info")


class Reading:
    """A run as far as its record goes; :meth:`more` reads on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._at, self._rest, self._number = 0, b"", 0
        self._header: WatchHeader | None = None
        self._records: list[WatchRecord] = []  # the last two of this part of the run
        self._alarms: list[Alarm] = []
        self._probe: WatchProbe | None = None
        self._end: WatchEnd | None = None
        self._begun, self._last, self._before, self._step = 0.0, 0.0, 0.0, 0

    def more(self) -> bool:
        """Read what was written since; whether there was anything.

        Raises:
            SourceError: it is no record of a run, or one that a newer bninspect wrote.
        """
        before = self._number
        with self.path.open("rb") as file:
            file.seek(self._at)
            while piece := file.read(_PIECE):
                self._at += len(piece)
                *lines, self._rest = (self._rest + piece).split(b"\n")
                for line in lines:
                    self._take(line)
                if len(self._rest) > _LONGEST or (not self._number and not self._rest.startswith(_START[:1])):
                    raise self._refused("its first line is no header of a run")
        return self._number > before

    @property
    def ended(self) -> bool:
        """Whether nothing will follow: the block was left, or the process is gone."""
        return self._end is not None or in_use(self.path) is False

    def report(self) -> WatchReport:
        """Where the run stands.

        Raises:
            SourceError: not even the first line is there.
        """
        if self._header is None:
            raise self._refused("it is empty" if not self._rest else "it ends within its first line")
        header, record = self._header, self._records[-1] if self._records else None
        return WatchReport(
            tool=header.tool,
            run=str(self.path),
            model=header.model,
            state=self._state(),
            error=self._end.error if self._end else None,
            step=self._step,
            recorded=record.step if record else None,
            every=header.every,
            accumulation=header.accumulation,
            seconds=self._before + self._last - self._begun,
            steps_per_second=self._speed(),
            layers=tuple(sorted(self._layers(record), key=lambda layer: _worst(layer, self._alarms))),
            scalars=record.scalars if record else {},
            alarms=tuple(self._alarms),
            probed=self._probe.step if self._probe else None,
            findings=self._probe.findings if self._probe else (),
            notes=header.notes,
        )

    def _take(self, text: bytes) -> None:
        self._number += 1
        try:
            line = _LINE.decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise self._refused(f"line {self._number}: {error}") from error
        if self._header is None and not isinstance(line, WatchHeader):
            raise self._refused("its first line is no header of a run")
        if isinstance(line, WatchHeader):
            self._begin(line)
        elif isinstance(line, Alarm):
            self._alarms.append(line)
        else:
            self._last = line.time
            if isinstance(line, WatchRecord):
                self._records = [*self._records[-1:], line]
            elif isinstance(line, WatchProbe):
                self._probe = line
            else:
                self._end = line
        self._step = line.step

    def _begin(self, header: WatchHeader) -> None:
        if header.schema_version > _VERSION:
            raise self._refused("a newer bninspect wrote it: pip install --upgrade bninspect")
        self._before += self._last - self._begun
        self._header, self._end, self._records = header, None, []
        self._begun = self._last = header.time

    def _state(self) -> Any:
        if self._end is not None:
            return "failed" if self._end.error else "ended"
        return "cut" if in_use(self.path) is False else "running"

    def _speed(self) -> float | None:
        if len(self._records) < 2 or self._records[1].time <= self._records[0].time:
            return None
        first, last = self._records
        return (last.step - first.step) / (last.time - first.time)

    def _layers(self, record: WatchRecord | None) -> list[WatchLayer]:
        assert self._header is not None
        told: dict[str, list[str]] = {}
        for alarm in self._alarms:
            for place in alarm.layers:
                told.setdefault(place.path, []).append(alarm.code)
        columns: dict[str, Any] = msgspec.structs.asdict(record.layers) if record else {}
        if any(len(column) != len(self._header.layers) for column in columns.values()):
            raise self._refused("a record has not as many layers as the header")
        return [
            WatchLayer(
                path=layer.path,
                kind=layer.kind,
                num_features=layer.num_features,
                alarms=tuple(dict.fromkeys(told.get(layer.path, ()))),
                **{name: column[index] for name, column in columns.items()},
            )
            for index, layer in enumerate(self._header.layers)
        ]

    def _refused(self, why: str) -> SourceError:
        return SourceError(f"{printable(str(self.path))} is no record of bninspect.watch: {printable(why, 300)}")


def _worst(layer: WatchLayer, alarms: list[Alarm]) -> tuple[int, float]:
    """Layers with the gravest alarms first, then those whose batch is the farthest off."""
    levels = [
        SEVERITIES.index(alarm.severity)
        for alarm in alarms
        if alarm.code in layer.alarms and any(place.path == layer.path for place in alarm.layers)
    ]
    return min(levels, default=len(SEVERITIES)), -(layer.d_max or 0.0)


def last_line(path: Path) -> tuple[int, int]:
    """The step of the last full line of a record, and where it ends; 0 and 0 where there is none yet.

    Raises:
        SourceError: it is something else.
    """
    with path.open("rb") as file:
        start = file.read(len(_START))
        if not _START.startswith(start[: len(_START)]):
            raise SourceError(f"{printable(str(path))} is no record of bninspect.watch")
        end = file.seek(0, 2)
        tail = b""
        while end > 0 and tail.count(b"\n") < 2:
            size = min(_PIECE, end)
            end = file.seek(end - size)
            tail = file.read(size) + tail
    lines = tail.split(b"\n")
    if len(lines) == 1:
        return 0, 0
    try:
        line = _LINE.decode(lines[-2])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise SourceError(f"the last line of {printable(str(path))} is none of bninspect.watch") from error
    return line.step, end + len(tail) - len(lines[-1])
