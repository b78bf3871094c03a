"""What the layers of a shadow normalise by, set from their input before each of them runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bninspect.moments.way import measure
from bninspect.observe.guard import unseen
from bninspect.observe.layers import batchnorms, given, num_features
from bninspect.observe.norms import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from bninspect.moments import Moments
    from bninspect.report import Float64


def before_each(twin: nn.Module, paths: Collection[str], use: Callable[[str, nn.Module, Tensor], None]) -> None:
    """Call ``use`` with the input of each of these layers, before it runs."""

    def hook(path: str) -> Callable[..., None]:
        def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = plain(given(args, kwargs))
            if x.dim() > 1 and x.shape[1] == num_features(module):  # else the layer refuses it, in its own words
                use(path, module, x)

        return look

    for path, module in batchnorms(twin).items():
        if path in paths:
            module.register_forward_pre_hook(hook(path), with_kwargs=True)


def measured(x: Tensor) -> Moments:
    """The moments of a layer's input, at once."""
    with unseen():
        return measure(x)


def statistics_of(found: Moments) -> tuple[Float64, Float64]:
    """Mean and biased variance per channel."""
    return found.mean, found.M2 / found.count.clip(1)


def normalise_by(module: Any, mean: Float64, var: Float64) -> None:
    """Let a layer of a shadow, in eval mode, normalise by these."""
    with torch.no_grad(), unseen():  # .data: a step of training may have kept them for its gradients
        module.running_mean.data.copy_(torch.from_numpy(mean))
        module.running_var.data.copy_(torch.from_numpy(var))
