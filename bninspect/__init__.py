"""bninspect: look at every BatchNorm layer of a PyTorch model, and leave the model as it was found."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bninspect.inspection.check import check
    from bninspect.inspection.diff import diff
    from bninspect.inspection.merge import merge
    from bninspect.inspection.noise import noise
    from bninspect.inspection.population import population
    from bninspect.inspection.recalibrate import recalibrate
    from bninspect.inspection.stats import stats
    from bninspect.inspection.summary import summary
    from bninspect.inspection.watch import watch

__all__ = ["check", "diff", "merge", "noise", "population", "recalibrate", "stats", "summary", "watch"]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Public functions are loaded when they are first asked for: importing bninspect does not import torch."""
    if name in __all__:
        return getattr(importlib.import_module(f"bninspect.inspection.{name}"), name)
    raise AttributeError(f"module 'bninspect' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
