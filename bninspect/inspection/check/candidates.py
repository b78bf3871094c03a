"""Changes of the input, and whether the first BatchNorm would fit the data after them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bninspect.errors import BNInspectError
from bninspect.inspection.check.hooks import moments_of
from bninspect.observe.forward import forward
from bninspect.observe.layers import given
from bninspect.observe.norms import plain
from bninspect.observe.shadow import set_mode
from bninspect.rules.data_facts import Candidate

if TYPE_CHECKING:
    from bninspect.rules.facts import LayerFacts

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _ArrivedError(BNInspectError):
    """The forward has reached the layer that was waited for."""


def candidates(twin: nn.Module, first: str, x: Tensor, layer: LayerFacts, what: str) -> tuple[Candidate, ...]:
    """How far the first BatchNorm is from its statistics for changes of the image ``x``; the forward ends there."""
    found: list[float] = []

    def stop(_: nn.Module, args: Any, kwargs: Any) -> None:
        found.append(float(layer.distance(*moments_of(plain(given(args, kwargs)))).mean()))
        raise _ArrivedError

    set_mode(twin, "eval")
    twin.get_submodule(first).register_forward_pre_hook(stop, with_kwargs=True)
    changes = {"": x, **_changes(x)}
    for changed in changes.values():
        try:
            forward(twin, (changed,), what=what)
        except _ArrivedError:
            continue
    before, *after = found
    return tuple(
        Candidate(name=name, before=before, after=d2) for name, d2 in zip(list(changes)[1:], after, strict=True)
    )


def _changes(x: Tensor) -> dict[str, Tensor]:
    mean, std = (torch.tensor(values, dtype=x.dtype, device=x.device).view(1, 3, 1, 1) for values in _IMAGENET)
    return {
        "divide by 255": x / 255,
        "multiply by 255": x * 255,
        "subtract ImageNet's mean and divide by its standard deviation": (x - mean) / std,
        "undo ImageNet's mean and standard deviation": x * std + mean,
        "divide by 255, then ImageNet's mean and standard deviation": (x / 255 - mean) / std,
        "undo ImageNet's mean and standard deviation, then multiply by 255": (x * std + mean) * 255,
        "from [0, 1] to [-1, 1]": x * 2 - 1,
        "from [-1, 1] to [0, 1]": (x + 1) / 2,
        "swap RGB and BGR": x.flip(1),
    }
