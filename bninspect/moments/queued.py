"""A layer's moments by torch's own operations, on any device, without waiting for it.

A look at a number would wait for the device's queue: :func:`enqueue` shifts every channel by its mean unseen, and
:func:`doubtful` tells afterwards which layers :func:`bninspect.moments.exact` has to measure again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bninspect.moments import FAST, TINY, Moments, along, view_of

if TYPE_CHECKING:
    from collections.abc import Sequence


_SAMPLE = 4096  # values of a channel, at least, that say how far a mean is off
_VALUES = 1 << 22  # values of a block: temporaries stay small beside any activation that is larger


def enqueue(x: Tensor, *, extremes: bool = True) -> Tensor:
    """Moments of a tensor on any device, without waiting for it: the fields of :class:`Moments`, ``[10, C]``."""
    view, channel = view_of(x)
    images, size = view.shape[0], view.shape[3 - channel]
    wide = view.dtype if view.dtype in FAST else torch.float32
    shift = _shift(view, channel, wide)
    blocks = view.split(max(1, _VALUES // max(1, view[:1].numel())))
    parts = zip(*(_block(block, channel, shift, extremes=extremes) for block in blocks), strict=True)
    var, mean, zeros, low, high = (torch.cat(part).double() for part in parts)
    pooled = mean.mean(0)
    between = (mean - pooled).square().sum(0)
    count, seen = torch.full_like(pooled, images * size), torch.full_like(pooled, images)
    spread = (var.sum(0) + between) * size
    mean = pooled + shift.double()
    extreme = zeros.sum(0), low.amin(0), high.amax(0)
    return torch.stack([count, mean, spread, seen, mean, between, torch.zeros_like(mean), *extreme])


def _shift(view: Tensor, channel: int, wide: torch.dtype) -> Tensor:
    """About the mean of each channel, ``[C]``: a float32 sum of large values is off by deviations, a second is not."""
    rough = view.mean((0, 3 - channel), dtype=wide)
    step = max(1, view.shape[0] * view.shape[3 - channel] // _SAMPLE)
    sample = view[:, :, ::step] if channel == 1 else view[:, ::step]
    return rough + (sample.to(wide) - along(rough, channel)).mean((0, 3 - channel))


def _block(block: Tensor, channel: int, shift: Tensor, *, extremes: bool) -> tuple[Tensor, ...]:
    """Of some images: each one's variance and mean around ``shift``, and zeros, least and greatest of all of them."""
    x = block.to(shift.dtype) - along(shift, channel)
    var, mean = torch.var_mean(x, 3 - channel, correction=0)
    if not extremes:
        unknown = torch.full_like(shift, torch.nan)[None]
        return var, mean, unknown, unknown, unknown
    both = 0, 3 - channel
    zeros = torch.eq(block, 0, out=x).sum(both) if x.dtype == block.dtype else (block == 0).sum(both)
    return var, mean, zeros[None], block.amin(both)[None], block.amax(both)[None]


def together(found: Sequence[Tensor]) -> Moments:
    """Moments of layers side by side, in the order of ``found``; they come to the host by a single copy."""
    return Moments(*torch.cat(list(found), dim=1).cpu().numpy())


def doubtful(found: Moments) -> npt.NDArray[np.bool_]:
    """The channels ``[C]`` of an :func:`enqueue` that :func:`exact` has to measure again (NaN, overflow, underflow)."""
    tiny = (TINY * found.count > found.M2) & (found.min != found.max)
    doubt: npt.NDArray[np.bool_] = tiny | ~np.isfinite(found.M2 + found.mean)
    return doubt
