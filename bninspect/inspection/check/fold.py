"""What folding a BatchNorm into the layer before it would change, on one image and in that layer's own precision.

Folding replaces ``y = batch_norm(W x + b)`` by one layer with ``W' = W g`` and ``b' = (b - running_mean) g + bias``,
where ``g = weight / sqrt(running_var + eps)``. The two are equal but for rounding, of which the measure is

    max |W' x + b' - y| / sqrt(mean(y^2)),

over all values of the image, beside the spacing of numbers in that precision. It grows with the mean of a channel over
its standard deviation, since a small difference is then taken of two large numbers, and with folded weights that leave
the range of their type.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from bninspect.observe.guard import unseen
from bninspect.observe.layers import given as called_with

if TYPE_CHECKING:
    from collections.abc import Callable

    from bninspect.layers import Graph


class Folding:
    """Hooks on a shadow that measure each foldable layer at its first call; ``found`` has the results by path."""

    def __init__(self, twin: nn.Module, seen: Graph) -> None:
        self.found: dict[str, tuple[float, float]] = {}
        self._open: set[str] = set()
        self._before: dict[str, tuple[nn.Module, Tensor, Tensor]] = {}
        modules = dict(twin.named_modules())
        for path, node in seen.nodes.items():
            before = modules.get(node.producer.path) if node.foldable and node.producer else None
            if path in modules and isinstance(before, nn.Module) and before is not twin:
                self._open.add(path)
                before.register_forward_hook(self._keep(path))
                modules[path].register_forward_pre_hook(self._measure(path), with_kwargs=True)

    def _keep(self, path: str) -> Callable[..., None]:
        def keep(layer: nn.Module, args: Any, output: Any) -> None:
            if path in self._open and len(args) == 1 and isinstance(output, Tensor):
                self._before[path] = layer, args[0][:1].clone(), output  # what follows may write into its input

        return keep

    def _measure(self, path: str) -> Callable[..., None]:
        def measure(bn: Any, args: Any, kwargs: Any) -> None:
            self._open.discard(path)
            layer, x, given = self._before.pop(path, (None, None, None))
            if layer is None or x is None or given is not called_with(args, kwargs):
                return
            with torch.no_grad(), unseen():
                change = relative_change(layer, bn, x)
            if change is not None:
                self.found[path] = change, spacing(x)

        return measure


def relative_change(layer: Any, bn: Any, x: Tensor) -> float | None:
    """Largest difference that folding makes, over the root mean square of BatchNorm's output.

    Both sides are of ``x`` alone: what a layer gives for an image may round otherwise in a larger batch.

    Args:
        layer: a convolution or a linear layer in eval mode; it is not changed.
        bn: the BatchNorm that follows; it is not changed.
        x: the input of ``layer``, ``[1, ...]``.

    Returns:
        ``None`` where there is nothing to fold or to compare with: no running statistics, a weight that is no
        parameter (weight_norm and other parametrizations), a forward that takes no such weight, an output that is not
        finite.
    """
    mean, var, eps = bn.running_mean, bn.running_var, getattr(bn, "eps", None)
    weight = layer._parameters.get("weight")  # noqa: SLF001  # a parametrized weight must not be assigned to
    if mean is None or var is None or eps is None or weight is None or len(mean) != _width(layer):
        return None
    gamma, beta = getattr(bn, "weight", None), getattr(bn, "bias", None)
    try:
        y = nn.functional.batch_norm(layer.forward(x), mean, var, gamma, beta, training=False, eps=eps).double()
        difference = float((folded(layer, bn).forward(x).double() - y).abs().max())
    except Exception:  # a subclass with a forward of its own, which is no fault of the model
        return None
    size = float(y.square().mean().sqrt())
    if difference == 0 or not math.isfinite(size):
        return 0.0 if math.isfinite(size) else None
    return difference / size if size and math.isfinite(difference) else math.inf


def folded(layer: nn.Module, bn: Any) -> Any:
    """A copy of ``layer`` that has taken in ``bn``, as inference tools make it; ``forward`` calls no hooks of it."""
    parameters: dict[str, Any] = dict(layer._parameters)  # noqa: SLF001
    weight, bias, mean, var = parameters["weight"], parameters.get("bias"), bn.running_mean, bn.running_var
    gamma, beta = getattr(bn, "weight", None), getattr(bn, "bias", None)
    gamma = torch.ones_like(var) if gamma is None else gamma
    beta = torch.zeros_like(mean) if beta is None else beta
    if isinstance(layer, nn.Linear):
        both = fuse_linear_bn_weights(weight, bias, mean, var, bn.eps, gamma, beta)
    else:
        transposed = bool(getattr(layer, "transposed", False))
        both = fuse_conv_bn_weights(weight, bias, mean, var, bn.eps, gamma, beta, transposed)
    twin = copy.copy(layer)
    twin._parameters = {**parameters, "weight": both[0], "bias": both[1]}  # noqa: SLF001  # its own dict
    return twin


def spacing(x: Tensor) -> float:
    """Spacing of numbers at 1 in the type of ``x``; that of TF32, which is float16's, where a GPU convolves in it."""
    tf32 = x.is_cuda and x.dtype == torch.float32 and torch.backends.cudnn.allow_tf32
    return torch.finfo(torch.float16 if tf32 else x.dtype).eps


def _width(layer: Any) -> int:
    width: int = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    return width
