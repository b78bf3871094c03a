"""The ways to estimate the statistics of all layers; each leaves them in the trial, and gives its last pass."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from bninspect.inspection.recalibrate.trial import settled
from bninspect.inspection.recalibrate.upstream import OfTheBatch, SoFar

if TYPE_CHECKING:
    from collections.abc import Callable

    from bninspect.inspection.recalibrate.trial import Pass, Statistics, Trial


class Estimate(NamedTuple):
    """The new statistics by path, the pass in which they were held against the data, and how many made them."""

    values: dict[str, Statistics]
    after: Pass
    passes: int


def fixed_point(trial: Trial, before: Pass, paths: tuple[str, ...], passes: int) -> Estimate:
    """All layers at once, in eval mode, until what is measured is what they normalise by.

    While a pass runs, each layer already normalises by what it is about to find: were it by what the pass before found,
    a deep net whose statistics are far off would come right by one layer in each pass, and the others would be thrown
    about by it (|d| of 3 became one of 1,000,000 in a ResNet-18).
    """
    values: dict[str, Statistics] = {}
    after, last, done = before, None, 0
    while done < passes and not settled(after.layers(paths).values()):
        found = trial.run(paths, partial(SoFar, last=last))
        values |= trial.put(found.layers(paths).values())
        last = found.upstream if isinstance(found.upstream, SoFar) else None
        after, done = trial.run(paths), done + 1
    return Estimate(values, after, done)


def sequential(trial: Trial, before: Pass, paths: tuple[str, ...], passes: int) -> Estimate:  # noqa: ARG001
    """Layer by layer in call order, with everything before a layer already right.

    In one pass where there is one piece of data; else one for each depth: layers that wait for each other wait.
    """
    order = list(before.layers(paths))
    if before.report.num_pieces == 1:
        values = trial.put(trial.run(paths, SoFar).layers(paths).values())
        return Estimate(values, trial.run(paths), 1)
    values, done = {}, 0
    while unsettled := [path for path in order if path not in values]:
        level = trial.ready(unsettled) or unsettled[:1]  # a layer that waits for itself is called again and again
        values |= trial.put(trial.run(paths).layers(level).values())
        done += 1
    return Estimate(values, trial.run(paths), done)


def train(trial: Trial, before: Pass, paths: tuple[str, ...], passes: int) -> Estimate:  # noqa: ARG001
    """With the statistics of the batch in all layers, as in training, in one pass; dropout is off nevertheless."""
    values = trial.put(trial.run(paths, OfTheBatch).layers(paths).values())
    return Estimate(values, trial.run(paths), 1)


HOWS: dict[str, Callable[[Trial, Pass, tuple[str, ...], int], Estimate]] = {
    "fixed-point": fixed_point,
    "sequential": sequential,
    "train": train,
}
