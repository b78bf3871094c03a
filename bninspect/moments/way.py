"""Which way a layer's moments are found: by the device that its input lies on."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from bninspect.moments import Moments, cpu, exact, queued, triton

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

Found = Moments | cpu.Sums | Tensor | triton.Slot
"""What a look at an input gives, for :meth:`Way.together` to complete after the forward."""


class Way:
    """The way to the moments of all layers of a run on one device.

    Attributes:
        notes: why it is not the best way there is, for a report.
    """

    def __init__(self, device: torch.device) -> None:
        self.kernels = triton.Kernels(device) if triton.available(device) else None
        self.notes: tuple[str, ...] = ()
        self._broken = False
        if device.type == "cuda" and self.kernels is None:
            self.notes = ("Triton is not installed, or has no compiler for this device: statistics took another way",)

    def look(self, x: Tensor, *, extremes: bool) -> Found:
        """The part that needs ``x``, a layer's input; it does not wait for the device."""
        if x.device.type == "cpu":
            return cpu.sums_of(x, extremes=extremes)
        return self._launched(x) or queued.enqueue(x, extremes=extremes)

    def _launched(self, x: Tensor) -> triton.Slot | None:
        if self.kernels is None or self._broken:
            return None
        try:
            return self.kernels.launch(x)
        except Exception as error:  # no compiler on the machine, a driver that is too old: there is another way
            self._broken = True
            reason = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
            self.notes = (f"Triton could not compile for this device ({reason}): statistics took another way",)
            return None

    def together(self, found: Sequence[Found]) -> Moments:
        """Moments of all layers side by side, in the order of ``found``: vectors of ``[C1 + C2 + ...]``."""
        if self.kernels is not None:
            self.kernels.finish()
        parts = [part for kind, run in groupby(found, type) for part in _together(kind, list(run))]
        return (
            Moments(*(np.concatenate(vectors) for vectors in zip(*parts, strict=True))) if len(parts) > 1 else parts[0]
        )


def measure(x: Tensor, *, extremes: bool = False) -> Moments:
    """The moments of one tensor, at once."""
    if x.device.type == "cpu":
        return cpu.measure(x, extremes=extremes)
    found = queued.together([queued.enqueue(x, extremes=extremes)])
    return exact(x) if queued.doubtful(found).any() else found


def _together(kind: type, found: list[Found]) -> list[Moments]:
    if kind is triton.Slot:
        return triton.slots_together(found)  # type: ignore[arg-type]
    return [queued.together(found) if issubclass(kind, Tensor) else cpu.collect(found)]  # type: ignore[arg-type]
