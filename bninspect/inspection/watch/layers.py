"""Which layers are watched, and their settings at one step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from torch.nn import SyncBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from bninspect.errors import InputError
from bninspect.inspection.watch.history import Modes
from bninspect.observe.layers import batchnorms
from bninspect.report import WatchedLayer

if TYPE_CHECKING:
    from torch import nn


def watched(model: nn.Module) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The layers that keep running statistics, by path, and how many others there are.

    Raises:
        InputError: there is none, or one that has no values yet.
    """
    found = batchnorms(model)
    kept: dict[str, Any] = {
        path: module
        for path, module in found.items()
        if isinstance(module, _BatchNorm) and isinstance(module.running_mean, Tensor)
    }
    for path, module in kept.items():
        if is_lazy(module.running_mean):
            raise InputError(f"layer {path} is lazy and has no statistics yet: run the model on a batch first")
    if not kept:
        name = type(model).__name__
        raise InputError(f"{name} has nothing to watch: it has no BatchNorm layer that keeps running statistics")
    others = len(found) - len(kept)
    return kept, (f"{others} layers are not watched: they keep no statistics, or never change them",) if others else ()


def described(modules: dict[str, Any]) -> tuple[WatchedLayer, ...]:
    """What the header says of them."""
    return tuple(
        WatchedLayer(
            path=path,
            kind=type(module).__name__,
            num_features=len(module.running_mean),
            eps=module.eps,
            momentum=module.momentum,
            affine=isinstance(module.weight, Tensor),
        )
        for path, module in modules.items()
    )


def modes_of(modules: dict[str, Any]) -> Modes:
    """Their settings now."""
    rows = [_row(module) for module in modules.values()]
    *flags, momenta = zip(*rows, strict=True)
    training, flag, stored, frozen, synchronised = (np.array(column, bool) for column in flags)
    momentum = np.array(momenta, np.float64)  # None becomes NaN
    return Modes(training, flag, stored, frozen, synchronised, momentum)


def _row(module: Any) -> tuple[bool, bool, bool, bool, bool, float | None]:
    parameters = [value for value in module._parameters.values() if value is not None]  # noqa: SLF001  # 160 a step
    frozen = bool(parameters) and not any(value.requires_grad for value in parameters)
    stored = module._buffers.get("running_mean") is not None  # noqa: SLF001
    synchronised = isinstance(module, SyncBatchNorm)
    return module.training, module.track_running_stats, stored, frozen, synchronised, module.momentum
