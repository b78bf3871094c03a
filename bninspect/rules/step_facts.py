"""What the rules on training look at: what one step did in each layer, as vectors over the layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bninspect.report import Place, Severity, Vector
from bninspect.rules.facts import Hit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Apart(msgspec.Struct, frozen=True, kw_only=True):
    """How far other processes are from the first; the most of any, vectors ``[layers]``.

    ``d`` and ``r`` are of their batches over the last steps, medians over channels: ``|d|``, and the ratio of
    deviations, above 1 whichever is the larger. ``unequal`` tells where stored statistics differ in any bit.
    """

    d: Vector
    r: Vector
    unequal: Vector


class StepFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a training loop; all vectors are of shape ``[layers]``.

    Attributes:
        step: its number.
        paths: of the layers.
        num_features: their channels.
        momentum: PyTorch's; NaN is a cumulative average.
        training: in train mode at this step.
        began: in train mode at any step before.
        learning: gamma or beta takes gradients, or there are none.
        tracking: statistics are kept and updated in train mode.
        accumulation: batches in a step, as the user says.
        updates: of the statistics, in this step.
        repeated: steps in a row, up to this one, with more updates than ``accumulation``.
        still: steps in a row, up to this one, without an update while other layers had one; 0 where it never had any.
        var: of the layer, the mean over channels of ``running_var`` without what it began with.
        var_before: the least of that in the last steps, without the first of the run; NaN where there are no others.
        var_first: the least with the first of the run.
        synchronised: layers whose batches are those of all processes.
        apart: how far processes are apart, where they were compared at this step.
    """

    step: int
    paths: tuple[str, ...]
    num_features: Vector
    momentum: Vector
    training: Vector
    began: Vector
    learning: Vector
    tracking: Vector
    synchronised: Vector
    accumulation: int
    updates: Vector
    repeated: Vector
    still: Vector
    var: Vector
    var_before: Vector
    var_first: Vector
    apart: Apart | None = None

    def hits(
        self,
        mask: Any,
        message: str,
        severity: Severity | None = None,
        told: Callable[[dict[str, Any]], str] | None = None,
        **evidence: Any,
    ) -> Iterator[Hit]:
        """A hit in each layer of a mask, with its entries of these vectors, which ``told`` says in words."""
        for index in np.flatnonzero(mask):
            numbers: dict[str, float | int | None] = {
                name: vector[index].item() for name, vector in evidence.items() if not np.isnan(vector[index])
            }
            place = Place(path=self.paths[index], told=told(numbers) if told else "", evidence=numbers)
            yield Hit(message=message, severity=severity, place=place)
