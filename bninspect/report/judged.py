"""A layer that was judged: how far its running statistics are from those of a batch, over its channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bninspect.report.header import Struct
from bninspect.report.stats import Channels  # noqa: TC001  # msgspec reads the types of a struct

if TYPE_CHECKING:
    from bninspect.report.header import Vector
    from bninspect.report.stats import StatsLayer

Three = tuple[float | None, float | None, float | None]
SHARES = (0.05, 0.5, 0.95)
UNKNOWN: Three = (None, None, None)


class Measured(Struct, frozen=True, kw_only=True):
    """One layer: the 5 %, 50 % and 95 % quantiles over its channels of d and of r, as :class:`Channels` has them."""

    path: str
    d: Three = UNKNOWN
    r: Three = UNKNOWN


class Judged(Measured, frozen=True, kw_only=True):
    """One layer that rules looked at; without a batch, d and r are not known.

    ``channels`` are what a batch did in it, or the stored vectors alone; ``None`` where a report left them out.
    """

    kind: str
    num_features: int
    eps: float | None = None
    channels: Channels | None = None


def measured(layer: StatsLayer) -> Measured:
    """Of a layer with its channels; what is NaN or infinite is passed over."""
    assert layer.channels is not None
    return Measured(path=layer.path or layer.kind, d=_three(layer.channels.d), r=_three(layer.channels.r))


def _three(vector: Vector | None) -> Three:
    known = np.empty(0) if vector is None else vector[np.isfinite(vector)]
    if not len(known):
        return UNKNOWN
    low, middle, high = np.quantile(known, SHARES).tolist()
    return low, middle, high
