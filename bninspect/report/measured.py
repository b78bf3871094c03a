"""How far a layer's running statistics are from those of a batch, over its channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bninspect.report.header import Struct

if TYPE_CHECKING:
    from bninspect.report.header import Vector
    from bninspect.report.stats import StatsLayer

Three = tuple[float | None, float | None, float | None]
SHARES = (0.05, 0.5, 0.95)


class Measured(Struct, frozen=True, kw_only=True):
    """One layer: the 5 %, 50 % and 95 % quantiles over its channels of d and of r, as :class:`Channels` has them."""

    path: str
    d: Three
    r: Three


def measured(layer: StatsLayer) -> Measured:
    """Of a layer with its channels; what is NaN or infinite is passed over."""
    assert layer.channels is not None
    return Measured(path=layer.path or layer.kind, d=_three(layer.channels.d), r=_three(layer.channels.r))


def _three(vector: Vector | None) -> Three:
    known = np.empty(0) if vector is None else vector[np.isfinite(vector)]
    if not len(known):
        return None, None, None
    low, middle, high = np.quantile(known, SHARES).tolist()
    return low, middle, high
