"""Which layers are estimated again, and which are left as they are, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from bninspect.errors import InputError
from bninspect.observe.layers import batchnorms, num_features
from bninspect.report import LeftLayer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

NOT_EXECUTED = "not executed"


def chosen(model: nn.Module, name: str) -> tuple[dict[str, nn.Module], tuple[LeftLayer, ...]]:
    """The layers that track statistics and are not frozen, by path, and the others.

    Raises:
        InputError: there is none, or one that has no values yet.
    """
    layers = batchnorms(model)
    training = model.training or any(module.training for module in layers.values())
    reasons = {path: _reason(path, module, training=training) for path, module in layers.items()}
    left = tuple(left_out(path, layers[path], reason) for path, reason in reasons.items() if reason)
    wanted = {path: layers[path] for path, reason in reasons.items() if not reason}
    if not wanted:
        raise InputError(f"{name} has no statistics to estimate: {_summary(left)}")
    return wanted, left


def coarse(layers: Mapping[str, nn.Module]) -> tuple[str, ...]:
    """What to know where buffers are of a type that may be too coarse to come within the limit."""
    types = {module.running_mean.dtype for module in layers.values() if isinstance(module.running_mean, Tensor)}
    names = sorted(str(kind).removeprefix("torch.") for kind in types if kind.itemsize < 4)
    if not names:
        return ()
    return (
        f"statistics are stored as {' and '.join(names)}: where a mean is many deviations from 0, or the input is as "
        "coarse, no number of passes brings them closer",
    )


def left_out(path: str, module: nn.Module, reason: str) -> LeftLayer:
    """A layer that is left as it is."""
    return LeftLayer(path=path, kind=type(module).__name__, num_features=num_features(module), reason=reason)


def _reason(path: str, module: nn.Module, *, training: bool) -> str:
    """Why a layer is left as it is; empty if it is not."""
    mean = getattr(module, "running_mean", None)
    if isinstance(mean, Tensor) and is_lazy(mean):
        raise InputError(f"layer {path} is lazy and has no statistics yet: run the model on a batch first")
    if not isinstance(module, _BatchNorm):
        return "frozen: its class keeps the statistics as they are"
    if not isinstance(mean, Tensor) or not isinstance(module.running_var, Tensor):
        return "keeps no running statistics"
    if not module.track_running_stats:
        return "frozen: track_running_stats is off"
    if module.momentum == 0:
        return "frozen: its momentum is 0"
    return "frozen: in eval mode, while the model is in training mode" if training and not module.training else ""


def _summary(left: tuple[LeftLayer, ...]) -> str:
    if not left:
        return "it has no BatchNorm layer"
    kinds: dict[str, list[str]] = {}
    for layer in left:
        kinds.setdefault(layer.reason, []).append(layer.path)
    return "; ".join(f"{_named(paths)} {reason}" for reason, paths in kinds.items())


def _named(paths: list[str]) -> str:
    shown = ", ".join(paths[:3]) + (", ..." if len(paths) > 3 else "")
    return f"{len(paths)} layer{'s' * (len(paths) > 1)} ({shown})"
