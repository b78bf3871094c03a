"""From one state of the layers to the next: what each step did, and what is known over the last steps."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bninspect.rules.step_facts import StepFacts

if TYPE_CHECKING:
    from bninspect.inspection.watch.segments import Segments
    from bninspect.observe.captured import Snapshot
    from bninspect.report import Vector

WINDOW = 100  # steps over which the growth of a variance is looked at
SETTLING = 30  # first steps, in which a variance may grow from what the initialisation makes it


class Modes(NamedTuple):
    """Settings of the layers at one step, which a loop may change; each a vector over layers.

    ``flag`` is ``track_running_stats``, ``stored`` tells whether there are running statistics; ``frozen`` that gamma
    and beta take no gradients, ``synchronised`` that it is a SyncBatchNorm. A ``momentum`` of NaN is a
    cumulative average.
    """

    training: Vector
    flag: Vector
    stored: Vector
    frozen: Vector
    synchronised: Vector
    momentum: Vector

    @property
    def tracking(self) -> Vector:
        """Where statistics are kept, and updated in train mode."""
        tracking: Vector = self.flag & self.stored
        return tracking


class Step(NamedTuple):
    """Two states of the layers, before and after a step.

    ``weight`` is that of the batches of the step in the averages, ``1 - (1 - momentum)^updates``; 0 without any.
    """

    before: Snapshot
    after: Snapshot
    updates: Vector
    weight: Vector


class History:
    """What is known over the steps so far."""

    def __init__(self, segments: Segments, accumulation: int) -> None:
        self._segments, self._accumulation = segments, accumulation
        self._eps = segments.spread(segments.eps)
        none = np.zeros(len(segments.sizes), np.int64)
        self._repeated, self._still, self._ever, self._began = none, none, none > 0, none > 0
        self.updates, self.steps, self.travelled = none, 0, np.zeros(len(none))

    def begin(self, now: Snapshot) -> None:
        """Start from this state; also where the averages were put back, as by a checkpoint that was loaded."""
        self._now = now
        self._first_var = self._segments.mean(now.channels["running_var"])
        self._forgotten = np.ones(len(self._segments.sizes))
        self._vars: deque[tuple[int, Vector]] = deque(maxlen=WINDOW)
        self._age = 0

    def advance(self, number: int, now: Snapshot, modes: Modes) -> tuple[Step, StepFacts]:
        """The step that led to this state, and what the rules look at."""
        counted = (now.counts >= 0) & (self._now.counts >= 0)
        if (now.counts < self._now.counts)[counted].any():
            self.begin(now)
        step = self._step(now, modes, counted)
        some = step.updates.any()
        self._ever = self._ever | (step.updates > 0)
        self._repeated = np.where(step.updates > self._accumulation, self._repeated + 1, 0)
        resting = self._ever & (step.updates == 0)
        self._still = np.where(resting, self._still + bool(some), 0)
        var = self._var(step)
        facts = StepFacts(
            step=number,
            paths=self._segments.paths,
            num_features=self._segments.sizes,
            momentum=modes.momentum,
            training=modes.training,
            began=self._began,
            learning=~modes.frozen,
            tracking=modes.tracking,
            synchronised=modes.synchronised,
            accumulation=self._accumulation,
            updates=step.updates,
            repeated=self._repeated,
            still=self._still,
            var=var,
            var_before=self._least(after=SETTLING),
            var_first=self._least(after=0),
        )
        self._age += 1
        self._vars.append((self._age, var))
        self._began = self._began | modes.training
        self._now = now
        return step, facts

    def recorded(self) -> None:
        """Count updates and distances from here on."""
        self.updates, self.steps, self.travelled = self.updates * 0, 0, self.travelled * 0

    def _step(self, now: Snapshot, modes: Modes, counted: Vector) -> Step:
        before, after = self._now.channels, now.channels
        with np.errstate(all="ignore"):
            moved = (after["running_mean"] - before["running_mean"]) ** 2 / (before["running_var"] + self._eps)
        distance = np.sqrt(self._segments.mean(moved))
        updates = np.where(counted, now.counts - self._now.counts, 0)
        uncounted = (updates == 0) & (distance > 0) & modes.training  # classes that update without counting
        updates = np.where(uncounted, 1, updates)
        self.updates = self.updates + updates
        self.steps += 1
        self.travelled = self.travelled + distance
        with np.errstate(all="ignore"):
            weight = np.where(
                np.isnan(modes.momentum),  # a cumulative average
                updates / np.maximum(now.counts, 1),
                1 - (1 - modes.momentum) ** updates,
            )
        return Step(self._now, now, updates, weight)

    def _least(self, *, after: int) -> Vector:
        """The least variance of each layer in the window, in steps after so many; NaN where there is none."""
        vars_ = [var for age, var in self._vars if age > after]
        none: Vector = np.full(len(self._segments.sizes), np.nan)
        return np.fmin.reduce(vars_) if vars_ else none

    def _var(self, step: Step) -> Vector:
        """The mean of ``running_var`` over the channels of each layer, without what it was at the beginning."""
        self._forgotten = self._forgotten * (1 - step.weight)
        with np.errstate(all="ignore"):
            mean = self._segments.mean(step.after.channels["running_var"])
            var = (mean - self._forgotten * self._first_var) / (1 - self._forgotten)
        return np.where(self._forgotten < 1, np.maximum(var, 0), np.nan)
