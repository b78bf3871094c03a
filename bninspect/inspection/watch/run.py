"""One watched run: what happens at its beginning, after each step, and at its end."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from bninspect.errors import BNInspectError, InputError, WatchWarning
from bninspect.inspection.watch import figures
from bninspect.inspection.watch.alarms import Judge, words
from bninspect.inspection.watch.history import History, Modes
from bninspect.inspection.watch.layers import described, modes_of, watched
from bninspect.inspection.watch.ranks import Ranks, rank
from bninspect.inspection.watch.records import Records
from bninspect.inspection.watch.segments import Segments
from bninspect.inspection.watch.warned import warn
from bninspect.observe.captured import Layers
from bninspect.observe.optimizer import after_each_step
from bninspect.observe.process import home, own_dtype, tool_of
from bninspect.observe.unwrap import unwrap
from bninspect.report import Alarm, WatchEnd, WatchHeader, WatchProbe, WatchRecord

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from bninspect.inspection.watch.history import Step
    from bninspect.observe.captured import Capture


class Settings(NamedTuple):
    """What :func:`bninspect.watch` was called with."""

    every: int
    accumulation: int
    start: int | None
    append: bool
    channels: bool
    ranks: bool
    probe: Any
    probe_every: int
    on_alarm: Callable[[Alarm], None] | None


class _Seen(NamedTuple):
    """A step whose values may be on their way."""

    number: int
    time: float
    modes: Modes
    values: Capture
    scalars: dict[str, Any]


class Run:
    """A model that trains, and what is known of it so far; ``alarms`` are those."""

    def __init__(self, model: Any, optimizer: Any, to: Any, settings: Settings) -> None:
        self._model, self._optimizer, self._settings = unwrap(model), optimizer, settings
        self._shared = isinstance(model, DistributedDataParallel) and model.broadcast_buffers
        self._modules, self._notes = watched(self._model)
        self._layers = described(self._modules)
        self._segments = Segments(self._layers)
        self._records = Records(to, channels=settings.channels)
        self._judge = Judge(self._layers, self._segments)
        self._history = History(self._segments, settings.accumulation)
        self._captures = Layers(self._modules, self._segments.sizes)
        self._pending: deque[_Seen] = deque()
        self._last: tuple[_Seen, Step] | None = None
        self._ranks: Ranks | None = None
        self._number = self._begun = 0
        self._failed = False
        self._process = os.getpid()
        self._probe_error = ""
        self.alarms: list[Alarm] = []

    @property
    def counted_by_optimizer(self) -> bool:
        """Whether its hook counts the steps."""
        return self._optimizer is not None

    @property
    def _forked(self) -> bool:
        """Whether this is another process, which has a copy of the run: the record is not its own."""
        return os.getpid() != self._process

    def begin(self) -> ExitStack:
        """Open the records, hook the optimizer, and look for the first time; what is given back ends all of it."""
        settings = self._settings
        with ExitStack() as undo:
            self._records.open(self._layers, append=settings.append, first=not rank())
            undo.callback(self._records.close)
            self._number = self._records.last_step if settings.start is None else settings.start
            if settings.ranks:
                self._ranks = Ranks(self._segments, shared=self._shared)
                undo.callback(self._ranks.close)
                self._number = self._ranks.first(self._number)
            self._begun = self._number
            undo.push(self._end)
            if self._optimizer is not None:
                undo.callback(after_each_step(self._optimizer, self.count).remove)
            self._records.write(self._header())
            now, modes = self._captures.capture().snapshot(), modes_of(self._modules)
            self._history.begin(now)
            self._tell(self._written(self._judge.state(self._number, now, modes)))
            return undo.pop_all()

    def count(self, scalars: dict[str, Any] | None = None) -> None:
        """A step was done: copy the state of the layers, and look at it, or at that of the step before.

        Raises:
            InputError: a scalar is none.
        """
        if self._forked:
            return
        given = {name: _on_its_way(name, value) for name, value in (scalars or {}).items()}
        self._number += 1
        self._tell(self._safely(lambda: self._seen(given)))
        if self._settings.probe is not None and not rank() and self._number % self._settings.probe_every == 0:
            self._probe()

    def _seen(self, scalars: dict[str, Any]) -> list[Alarm]:
        values = self._captures.capture(grads=self._due(self._number))
        self._pending.append(_Seen(self._number, time.time(), modes_of(self._modules), values, scalars))
        return self._look(leave=0 if values.at_hand else 1)

    def _safely(self, act: Callable[[], list[Alarm]]) -> list[Alarm]:
        """A fault of our own is a warning and the end of the watch: it must not end a training."""
        try:
            return [] if self._failed else act()
        except WatchWarning:  # of a user who makes errors of warnings
            raise
        except Exception as error:
            self._failed = True
            text = f"the watch ends at step {self._number}, and the training goes on: internal error, "
            warn(f"{text}{type(error).__name__}: {error}")
            return []

    def _end(
        self,
        kind: type[BaseException] | None,  # noqa: ARG002  # an exit of contextlib is given it
        error: BaseException | None,
        traceback: TracebackType | None,  # noqa: ARG002
    ) -> None:
        if self._forked:
            return
        if error is not None:
            self._ranks = None  # the others may be waiting elsewhere
        try:
            alarms = self._safely(self._last_look)
            if error is None:
                self._tell(alarms)
                self._tell_of_no_step()
        finally:
            text = None if error is None else f"{type(error).__name__}: {error}".removesuffix(": ")[:300]
            self._records.write(WatchEnd(step=self._number, time=time.time(), error=text))

    def _tell_of_no_step(self) -> None:
        if self._number == self._begun:
            by_optimizer = "the optimizer that it was given did not step; is it the one of this loop?"
            why = by_optimizer if self.counted_by_optimizer else "it was given no optimizer, and step() was not called"
            warn(f"the watch saw no step: {why}")

    def _last_look(self) -> list[Alarm]:
        alarms = self._look(leave=0)
        if self._last is not None and self._history.steps:
            self._record(*self._last)
        return alarms

    def _header(self) -> WatchHeader:
        return WatchHeader(
            tool=tool_of(home(self._model), own_dtype(self._model), None),
            model=type(self._model).__name__,
            time=time.time(),
            step=self._number,
            every=self._settings.every,
            accumulation=self._settings.accumulation,
            rank=rank(),
            layers=self._layers,
            notes=self._notes,
        )

    def _due(self, number: int) -> bool:
        return number % self._settings.every == 0

    def _look(self, leave: int) -> list[Alarm]:
        """Look at all steps but the last ones; what is wrong is recorded, and has still to be told."""
        found: list[Alarm] = []
        while len(self._pending) > leave:
            seen = self._pending.popleft()
            now = seen.values.snapshot()
            step, facts = self._history.advance(seen.number, now, seen.modes)
            if self._ranks is not None:
                facts = msgspec.structs.replace(
                    facts, apart=self._ranks.apart(step, seen.modes, due=self._due(seen.number))
                )
            self._last = seen, step
            alarms = self._judge.state(seen.number, now, seen.modes)
            alarms += self._judge.settings(seen.number, now, seen.modes, step.updates)
            alarms += self._judge.training(facts)
            if self._due(seen.number):
                self._record(seen, step)
            found += self._written(alarms)
        return found

    def _record(self, seen: _Seen, step: Step) -> None:
        columns = figures.columns(step, seen.modes, self._history, self._segments)
        self._history.recorded()
        scalars = {name: _plain(value) for name, value in seen.scalars.items()}
        self._records.write(WatchRecord(step=seen.number, time=seen.time, layers=columns, scalars=scalars))
        if self._records.takes_vectors:
            self._records.write_vectors(seen.number, figures.vectors(step, self._segments))

    def _probe(self) -> None:
        from bninspect.inspection.check import check

        try:
            findings = check(self._model, self._settings.probe).findings
        except BNInspectError as error:
            if str(error) != self._probe_error:
                self._probe_error = str(error)
                warn(f"the probe cannot be checked: {error}")
        else:
            self._records.write(WatchProbe(step=self._number, time=time.time(), findings=findings))

    def _written(self, alarms: list[Alarm]) -> list[Alarm]:
        """Record all of them before any is told: what is told may end the training."""
        self.alarms += alarms
        for alarm in alarms:
            self._records.write(alarm)
        return alarms

    def _tell(self, alarms: list[Alarm]) -> None:
        for alarm in alarms:
            if alarm.severity != "info":
                warn(words(alarm))
            if self._settings.on_alarm is not None:
                self._settings.on_alarm(alarm)


def _on_its_way(name: str, value: Any) -> Any:
    """A number, or a copy of a tensor of one that nobody waits for.

    Raises:
        InputError: it is neither.
    """
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        return value.detach().clone().reshape(()).to("cpu", non_blocking=value.is_cuda)
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        what = f"a tensor of {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise InputError(f"{name} of watch.step() is a number or a tensor of one, and {what} was given") from error


def _plain(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
