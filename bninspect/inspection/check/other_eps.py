"""Whether layers would fit the data with another eps: that of the framework which their weights came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bninspect.inspection.check.batch_mode import change, pooled
from bninspect.inspection.check.hooks import moments_of, scores
from bninspect.observe.layers import batchnorms, given
from bninspect.observe.norms import plain
from bninspect.rules.data_facts import OtherEps
from bninspect.rules.facts import median, outside, share

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from bninspect.inspection.check.batch_mode import Sample
    from bninspect.rules.facts import LayerFacts

    Moments = tuple[np.ndarray, np.ndarray]

_CUSTOMARY = (1e-3, 1e-4, 1e-5)
_MUCH = 1.1  # a change of a channel's variance from which it is worth a look


def other_eps(sample: Sample, layers: Sequence[LayerFacts], running: Tensor | None) -> tuple[OtherEps, ...]:
    """How far layers behind the first are from their statistics with each customary eps in all layers.

    The first layer's input does not depend on any eps. Nothing is tried where no layer behind is certainly off, nor an
    eps that changes no scale.

    Args:
        sample: the images, which are run once for each eps.
        layers: what is known of them with the eps that the model has, in call order.
        running: the scores of the sample with that eps.
    """
    known = [bn for bn in layers if bn.channels is not None and bn.channels.d is not None and bn.eps is not None]
    if not any(share(bn.far(d=0.0, r=1.0)) > 0.1 for bn in known[1:]):
        return ()
    measured = {bn.path: (bn.channels.mean, bn.channels.var) for bn in known}
    first, before = _apart(known[:1], measured), _apart(known[1:], measured)
    found = []
    for eps in _CUSTOMARY:
        if any(_matters(bn, eps) for bn in known[:-1]):
            moments, table = _run(sample, eps)
            changed = None if table is None or running is None else change(running, table)[0]
            after = _apart([bn for bn in known[1:] if bn.path in moments], moments)
            found.append(OtherEps(eps=eps, first=first, before=before, after=after, changed=changed))
    return tuple(found)


def _matters(bn: LayerFacts, eps: float) -> bool:
    ratio = (np.maximum(bn.running_var, 0) + eps) / (np.maximum(bn.running_var, 0) + bn.eps)
    return share(outside(ratio, 1 / _MUCH, _MUCH)) > 0.1


def _apart(layers: Sequence[LayerFacts], moments: Mapping[str, Moments]) -> float:
    """Distance of the layer that is farthest off, in units of running_var alone; median over its channels.

    Beside a large eps every change is small.
    """
    found = [0.0]
    for bn in layers:
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(median(bn.distance(*moments[bn.path]) * (bn.running_var + bn.eps) / bn.running_var))
    return max(found)


def _run(sample: Sample, eps: float) -> tuple[dict[str, Moments], Tensor | None]:
    """What each layer is given, and the scores, with this eps in all layers and running statistics."""
    twin = sample.runner.twin()
    seen: dict[str, list[Moments]] = {}

    def look(path: str) -> Callable[..., None]:
        return lambda _, args, kwargs: seen.setdefault(path, []).append(moments_of(plain(given(args, kwargs))))

    for path, module in batchnorms(twin).items():
        layer: Any = module
        layer.eps = eps
        layer.register_forward_pre_hook(look(path), with_kwargs=True)
    output = sample.runner.run(twin, sample.inputs)
    return {path: pooled(found) for path, found in seen.items()}, scores(output)
