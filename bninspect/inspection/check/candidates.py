"""Changes of the input, and whether the first BatchNorm would fit the data after them."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bninspect.errors import BNInspectError
from bninspect.inspection.check.hooks import moments_of
from bninspect.observe.layers import given
from bninspect.observe.norms import plain
from bninspect.observe.regroup import put
from bninspect.observe.steps import leaves
from bninspect.rules.data_facts import Candidate

if TYPE_CHECKING:
    from bninspect.observe.runner import Runner
    from bninspect.observe.steps import Path
    from bninspect.rules.facts import LayerFacts

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_MNIST = 0.1307, 0.3081
_COLOURS = (1, 3, 4)  # channels of an image: grey, RGB, RGBA


class _ArrivedError(BNInspectError):
    """The forward has reached the layer that was waited for."""


def candidates(
    runner: Runner, first: str, inputs: tuple[Any, ...], path: Path, layer: LayerFacts
) -> tuple[Candidate, ...]:
    """How far the first BatchNorm is from its statistics for changes of the input at ``path``; the forward ends there.

    What cannot be told of a change, because the model refuses it or numbers overflow, is left out.
    """
    found: list[float] = []

    def stop(_: nn.Module, args: Any, kwargs: Any) -> None:
        found.append(float(layer.distance(*moments_of(plain(given(args, kwargs)))).mean()))
        raise _ArrivedError

    def distance(changed: Tensor) -> float:
        found.clear()
        with contextlib.suppress(BNInspectError):
            runner.run(twin, put(inputs, path, changed))
        return found[0] if found else math.nan

    twin, x = runner.twin(), dict(leaves(inputs))[path]
    twin.get_submodule(first).register_forward_pre_hook(stop, with_kwargs=True)
    before = distance(x)
    axis = _colours(x)
    known = {**_scaled(x), **({} if axis is None else _pictures(x, axis))}
    tried = [(name, distance(changed), False) for name, changed in known.items()]
    tried += [(name, distance(changed), True) for name, changed in _fitted(x).items()]
    return tuple(
        Candidate(name=name, before=before, after=after, fitted=fitted)
        for name, after, fitted in tried
        if math.isfinite(after)
    )


def _colours(x: Tensor) -> int | None:
    """The axis of the channels, if this looks like images; channels first if both may be."""
    return next((axis for axis in (1, 3) if x.dim() == 4 and x.shape[axis] in _COLOURS), None)


def _scaled(x: Tensor) -> dict[str, Tensor]:
    """Changes of any input by known numbers: bytes, 16-bit sound, logarithms."""
    found = {
        "divide by 255": x / 255,
        "multiply by 255": x * 255,
        "divide by 32768": x / 32768,
        "multiply by 32768": x * 32768,
        "from [0, 1] to [-1, 1]": x * 2 - 1,
        "from [-1, 1] to [0, 1]": (x + 1) / 2,
    }
    if bool((x > 0).all()):
        return {**found, "take the logarithm": x.log(), "take the exponential": x.exp()}
    if bool((x >= 0).all()):
        return {**found, "take the logarithm of 1 + x": x.log1p(), "take the exponential": x.exp()}
    return {**found, "take the exponential": x.exp()}


def _pictures(x: Tensor, axis: int) -> dict[str, Tensor]:
    """Changes of images by known numbers."""
    colours = x.shape[axis]
    if colours == 1:
        mean, std = _MNIST
        return {
            "subtract MNIST's mean and divide by its standard deviation": (x - mean) / std,
            "undo MNIST's mean and standard deviation": x * std + mean,
            "divide by 255, then MNIST's mean and standard deviation": (x / 255 - mean) / std,
        }
    order = torch.tensor([2, 1, 0, *range(3, colours)], device=x.device)
    swapped = {"swap RGB and BGR": x.index_select(axis, order)}
    if colours == 4:
        return swapped
    shape = [3 if index == axis else 1 for index in range(4)]
    means, stds = (torch.tensor(values, dtype=x.dtype, device=x.device).view(shape) for values in _IMAGENET)
    return {
        "subtract ImageNet's mean and divide by its standard deviation": (x - means) / stds,
        "undo ImageNet's mean and standard deviation": x * stds + means,
        "divide by 255, then ImageNet's mean and standard deviation": (x / 255 - means) / stds,
        "undo ImageNet's mean and standard deviation, then multiply by 255": (x * stds + means) * 255,
        **swapped,
    }


def _fitted(x: Tensor) -> dict[str, Tensor]:
    """Changes whose numbers are taken from the input itself, and which therefore serve more faults than one."""
    feature = x.dim() - 1 if x.dim() == 2 or _colours(x) == 3 else 1
    others = [axis for axis in range(x.dim()) if axis != feature]
    found = {"standardise each feature by its mean and standard deviation over the data": _standard(x, others)}
    if x.dim() > 1 and x[0].numel() > 1:
        own = "standardise each sample by its own mean and standard deviation"
        found[own] = _standard(x, list(range(1, x.dim())))
    return found


def _standard(x: Tensor, axes: list[int]) -> Tensor:
    var, mean = torch.var_mean(x, axes, keepdim=True, correction=0)
    return (x - mean) / torch.where(var > 0, var, torch.ones_like(var)).sqrt()
