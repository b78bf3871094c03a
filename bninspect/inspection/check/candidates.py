"""Changes of the input, and whether the first BatchNorm would fit the data after them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bninspect.errors import BNInspectError
from bninspect.inspection.check.hooks import moments_of
from bninspect.inspection.check.preparations import fitted, known
from bninspect.observe.layers import batchnorms, given
from bninspect.observe.norms import plain
from bninspect.observe.regroup import put
from bninspect.observe.steps import leaves
from bninspect.report import bounds
from bninspect.rules.data_facts import Candidate
from bninspect.rules.facts import median, outside, share

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from torch import Tensor

    from bninspect.observe.runner import Runner
    from bninspect.observe.steps import Path
    from bninspect.rules.facts import LayerFacts

    Moments = dict[str, tuple[np.ndarray, np.ndarray]]

_FOLLOWED = 4  # changes, of those that put the first layer right, that are followed through all layers
_FARTHER = 2  # times as far off, of a few images: such a change does not bring all of them nearer
_LEFT, _OFF = 0.5, 0.2  # of its distance, and of its channels, that may be left: twice what BN402 allows


class _ArrivedError(BNInspectError):
    """The forward has reached the layer that was waited for."""


class Changes:
    """Changes of one input, at ``path`` of the inputs, tried on the running statistics of the layers."""

    def __init__(self, runner: Runner, inputs: tuple[Any, ...], path: Path) -> None:
        self.runner, self.inputs, self.path = runner, inputs, path
        self.x: Tensor = dict(leaves(inputs))[path]
        self._twin = runner.twin()
        self._found: Moments = {}
        self._until: str | None = None
        self._error = np.zeros(0)
        for name, module in batchnorms(self._twin).items():
            module.register_forward_pre_hook(self._look(name), with_kwargs=True)

    def _look(self, name: str) -> Callable[..., None]:
        def look(_: Any, args: Any, kwargs: Any) -> None:
            x = plain(given(args, kwargs))
            self._found.setdefault(name, moments_of(x))
            if name == self._until:
                self._error = _error(x)
                raise _ArrivedError

        return look

    def moments(self, x: Tensor, until: str | None = None) -> Moments:
        """What the layers are given, in call order, with this input; the forward ends at the layer ``until``.

        What the model refuses gives none at all.
        """
        self._found, self._until = {}, until
        refused = False
        try:
            self.runner.run(self._twin, put(self.inputs, self.path, x))
        except BNInspectError:
            refused = until not in self._found
        return {} if refused else self._found

    def fed(self) -> str | None:
        """The first layer that this input reaches: mirrored within its range, it changes what that layer is given."""
        if self.x.numel() == 0:
            return None
        before, after = self.moments(self.x), self.moments(self.x.amin() + self.x.amax() - self.x)
        for name in before:
            if name in after and any(map(_differ, before[name], after[name])):
                return name
        return None

    def hopeless(self, first: LayerFacts) -> set[str]:
        """Changes after which the layer is farther off by far: of a few images, to try the others on more."""
        return {one.name for one in self._all_tried(first, self._changed(())) if one.after > _FARTHER * one.before}

    def candidates(self, layers: Sequence[LayerFacts], without: Collection[str] = frozenset()) -> tuple[Candidate, ...]:
        """How far the first of these layers is from its statistics after each change, and the others after likely ones.

        What cannot be told of a change, because the model refuses it or numbers overflow, is left out, and so are the
        changes of these names.
        """
        first, *behind = layers
        changed = self._changed(without)
        found = self._all_tried(first, changed)
        told = sorted(found, key=lambda one: (one.fitted, one.off, one.after))
        likely = [one for one in told if one.after <= _LEFT * one.before and one.off <= _OFF][:_FOLLOWED]
        if len(likely) == 1:  # nothing to choose from
            return tuple(told)
        followed = {one.name: self._followed(one, changed[one.name][0], behind) for one in likely}
        return tuple(followed.get(one.name, one) for one in told)

    def _changed(self, without: Collection[str]) -> dict[str, tuple[Tensor, bool]]:
        """The inputs by the name of the change, and whether its numbers are taken from the input."""
        changed = {name: (x, False) for name, x in known(self.x).items()}
        changed |= {name: (x, True) for name, x in fitted(self.x).items()}
        return {name: one for name, one in changed.items() if name not in without}

    def _all_tried(self, first: LayerFacts, changed: dict[str, tuple[Tensor, bool]]) -> list[Candidate]:
        before = self.moments(self.x, until=first.path)
        found = [self._tried(first, before, name, x, by_itself=by_itself) for name, (x, by_itself) in changed.items()]
        return [one for one in found if one is not None]

    def _tried(self, first: LayerFacts, before: Moments, name: str, x: Tensor, *, by_itself: bool) -> Candidate | None:
        after = self.moments(x, until=first.path)
        if first.path not in before or first.path not in after:
            return None
        distances = [float(first.distance(*moments[first.path]).mean()) for moments in (before, after)]
        if not all(map(math.isfinite, distances)):
            return None
        off = _off(first, *after[first.path], self._error)
        return Candidate(
            name=name, layer=first.path, before=distances[0], after=distances[1], off=off, fitted=by_itself
        )

    def _followed(self, one: Candidate, x: Tensor, behind: Sequence[LayerFacts]) -> Candidate:
        moments = self.moments(x)
        apart = [median(bn.distance(*moments[bn.path])) for bn in behind if bn.path in moments]
        return msgspec.structs.replace(one, behind=median(apart))


def _differ(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.any(np.abs(a - b) > 1e-6 * np.maximum(np.abs(a), np.abs(b))))


def _error(x: Tensor) -> np.ndarray:
    """Standard error over images of the mean, per channel."""
    means = x.flatten(2).mean(2) if x.dim() > 2 else x
    error: np.ndarray = (means.double().std(0) / len(x) ** 0.5).cpu().numpy()
    return error


def _off(first: LayerFacts, mean: np.ndarray, var: np.ndarray, error: np.ndarray) -> float:
    """Share of channels that are still off: materially as in BN401, or in their means by half as much, but certainly.

    What serves in part, such as swapped colours of grey images, leaves many of these.
    """
    total = np.maximum(first.running_var, 0) + first.eps
    with np.errstate(invalid="ignore", divide="ignore"):
        shift, ratio = np.abs(mean - first.running_mean) / np.sqrt(total), np.sqrt((var + first.eps) / total)
        certain = np.abs(mean - first.running_mean) > 5 * error
    return share((shift > bounds.D) | (certain & (shift > bounds.D / 2)) | outside(ratio, 1 / bounds.R, bounds.R))
