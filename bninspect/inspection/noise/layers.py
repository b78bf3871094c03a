"""Which layers normalise by the batch in training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn.modules.batchnorm import _BatchNorm

from bninspect.errors import InputError
from bninspect.observe.layers import batchnorms, num_features
from bninspect.report import LeftLayer

if TYPE_CHECKING:
    from torch import nn


def chosen(model: nn.Module, name: str) -> tuple[tuple[str, ...], tuple[LeftLayer, ...]]:
    """Their paths, and the layers that do not.

    Raises:
        InputError: there is none that does.
    """
    layers = batchnorms(model)
    training = model.training or any(module.training for module in layers.values())
    left = tuple(
        LeftLayer(path=path, kind=type(module).__name__, num_features=num_features(module), reason=reason)
        for path, module in layers.items()
        if (reason := _reason(module, training=training))
    )
    others = {layer.path for layer in left}
    paths = tuple(path for path in layers if path not in others)
    if not paths:
        why = f"all {len(left)} are frozen" if left else "it has no BatchNorm layer"
        raise InputError(f"no layer of {name} normalises by the batch in training: {why}")
    return paths, left


def _reason(module: nn.Module, *, training: bool) -> str:
    if not isinstance(module, _BatchNorm):
        return "frozen: its class normalises by stored statistics"
    return "frozen: in eval mode, while the model is in training mode" if training and not module.training else ""
