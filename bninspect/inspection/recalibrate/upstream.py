"""What the layers before a layer normalise by while it is measured, where that is not their running statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from bninspect import moments
from bninspect.errors import InputError
from bninspect.observe.guard import unseen
from bninspect.observe.layers import batchnorms
from bninspect.observe.statistics import before_each, measured, normalise_by, statistics_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from bninspect.moments import Moments
    from bninspect.observe.runner import Runner
    from bninspect.report import Float64


class SoFar:
    """Each layer normalises by what it will turn out to have seen in this pass, as far as that can be told by now.

    In a first pass that is all that it has seen so far: after one piece, exactly the statistics of that piece. In later
    ones it is what was found in the pass before, changed as the same pieces have changed since: that is exact where the
    layers before changed their output by a factor and a shift.

    Args:
        twin: a shadow that is about to run.
        paths: the layers that do so; others keep their running statistics.
        last: the pass before, over the same pieces in the same order.
    """

    def __init__(self, twin: nn.Module, paths: Collection[str], last: SoFar | None = None) -> None:
        self.last = last
        self.pieces = 0
        self.found: dict[str, Moments] = {}  # in the pieces that are done
        self.now: dict[str, Moments] = {}  # and in the one that runs
        self.kept: dict[int, dict[str, Moments]] = {}  # what was found after so many pieces
        before_each(twin, paths, self._use)

    def begin(self) -> None:
        """A piece is about to run."""
        self.now = dict(self.found)

    def _use(self, path: str, module: nn.Module, x: Tensor) -> None:
        found, seen = measured(x), self.now.get(path)
        self.now[path] = moments.merge(seen, found) if seen else found
        if self.last is None:
            normalise_by(module, *statistics_of(self.now[path]))
        elif path in (kept := self.last.kept.get(self.pieces + 1, {})):
            normalise_by(module, *_changed(self.last.found[path], kept[path], self.now[path]))

    def settle(self) -> None:
        """A piece is done; on a device it may have run twice."""
        self.found, self.pieces = self.now, self.pieces + 1
        if _is_kept(self.pieces):
            self.kept[self.pieces] = self.found


def _is_kept(pieces: int) -> bool:
    """The first eight, then four of twice as many each time: a million pieces are 80 of them."""
    return pieces % (1 << max(0, pieces.bit_length() - 3)) == 0


def _changed(whole: Moments, part: Moments, now: Moments) -> tuple[Float64, Float64]:
    """Mean and variance of the whole, if it has changed as a part of it has."""
    (mean, var), (mean_part, var_part), (mean_now, var_now) = map(statistics_of, (whole, part, now))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(var_part > 0, var_now / var_part, 1)
    return mean_now + (mean - mean_part) * np.sqrt(ratio), var * ratio


class OfTheBatch:
    """Each layer normalises by the statistics of the batch that runs, as in training."""

    def __init__(self, twin: nn.Module, paths: Collection[str]) -> None:
        before_each(twin, paths, self._use)

    def _use(self, path: str, module: nn.Module, x: Tensor) -> None:
        found = measured(x)
        if found.count.min(initial=2) < 2:
            raise InputError(
                f"layer {path} got a single value per channel from a batch {list(x.shape)}, and cannot normalise by "
                "it: training could not run on it either; leave that batch out (drop_last), or give larger ones"
            )
        normalise_by(module, *statistics_of(found))

    def begin(self) -> None:
        """A piece is about to run."""

    def settle(self) -> None:
        """A piece is done."""


def ready(runner: Runner, unsettled: Collection[str], inputs: tuple[Any, ...]) -> set[str]:
    """Those of the unsettled layers whose input depends on no other of them: the output of each is made NaN."""
    twin = runner.twin()
    fine: dict[str, bool] = {}

    def look(path: str, _: nn.Module, x: Tensor) -> None:
        fine[path] = fine.get(path, True) and bool(x.isfinite().all())

    before_each(twin, unsettled, look)
    for path, module in batchnorms(twin).items():
        if path in unsettled:
            module.register_forward_hook(_spoil)
    runner.run(twin, inputs)
    return {path for path, is_fine in fine.items() if is_fine}


def _spoil(_: nn.Module, __: Any, output: Tensor) -> Tensor:
    with unseen():
        return torch.full_like(output, torch.nan)
