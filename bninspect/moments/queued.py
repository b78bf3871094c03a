"""A layer's moments by torch's own operations, on any device, without waiting for it.

A look at a number would wait for the device's queue: :func:`enqueue` shifts every channel by its mean unseen, and
:func:`doubtful` tells afterwards which layers :func:`bninspect.moments.exact` has to measure again.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bninspect.moments import FAST, TINY, Moments, along, view_of


def enqueue(x: Tensor, *, extremes: bool = True) -> Tensor:
    """Moments of a tensor on any device, without waiting for it: the fields of :class:`Moments`, ``[10, C]``."""
    view, channel = view_of(x)
    if view.dtype not in FAST:
        view = view.float()
    images, size = view.shape[0], view.shape[3 - channel]
    shift = view.mean((0, 3 - channel))
    var, mean = torch.var_mean(view - along(shift, channel), 3 - channel, correction=0)
    mean, var, shift = mean.double(), var.double(), shift.double()
    pooled = mean.mean(0)
    between = (mean - pooled).square().sum(0)
    unknown = torch.full_like(shift, torch.nan)
    low, high, zeros = unknown, unknown, unknown
    if extremes:
        low, high = view.amin((0, 3 - channel)).double(), view.amax((0, 3 - channel)).double()
        zeros = (view == 0).sum((0, 3 - channel)).double()
    count, seen = torch.full_like(shift, images * size), torch.full_like(shift, images)
    spread = (var.sum(0) + between) * size
    mean = pooled + shift
    return torch.stack([count, mean, spread, seen, mean, between, torch.zeros_like(shift), zeros, low, high])


def doubtful(found: Moments) -> npt.NDArray[np.bool_]:
    """The channels ``[C]`` of an :func:`enqueue` that :func:`exact` has to measure again (NaN, overflow, underflow)."""
    tiny = (TINY * found.count > found.M2) & (found.min != found.max)
    doubt: npt.NDArray[np.bool_] = tiny | ~np.isfinite(found.M2 + found.mean)
    return doubt
