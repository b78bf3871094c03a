"""Figures as parts of a sentence, for a reader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from bninspect.rules.facts import LayerFacts

_MUCH_SHIFT, _MUCH_SPREAD = 0.5, 1.5  # as in BN401


def misfit(bn: LayerFacts, far: Any) -> str:
    """How far the channels of a mask are from the data at most: in mean, in spread, or both, whichever is much."""
    shifts, ratios = np.abs(bn.channels.d[far]), np.maximum(bn.channels.r[far], 1e-30)
    shift = float(max(shifts[np.isfinite(shifts)], default=0.0))
    worst = float(max(ratios[np.isfinite(ratios)], key=lambda ratio: abs(np.log(ratio)), default=1.0))
    how = f"{_short(worst)} times as wide" if worst >= 1 else f"{_short(1 / worst)} times as narrow"
    parts = [f"off by up to {_short(shift)} running standard deviations"] if shift > _MUCH_SHIFT else []
    parts += [f"up to {how} as expected"] if not 1 / _MUCH_SPREAD <= worst <= _MUCH_SPREAD else []
    return f"are {' and '.join(parts)}" if parts else ""


def _short(value: float) -> str:
    return f"{value:.2g}" if value < 100 else f"{value:,.0f}" if value < 1e6 else f"{value:.1e}"
