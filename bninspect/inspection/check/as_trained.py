"""What a sample shows with batch statistics, as in training: other predictions, noise, and a cure that is tried."""

from __future__ import annotations

import math
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import torch

from bninspect.errors import BNInspectError
from bninspect.inspection.check import between_batches as _groups
from bninspect.inspection.check.batch_mode import mode_change, pooled
from bninspect.observe.regroup import UncutError
from bninspect.rules.data_facts import ModeChange, Recalibrated
from bninspect.rules.facts import median, share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from bninspect.inspection.check.batch_mode import Sample
    from bninspect.rules.facts import LayerFacts

_SMALLEST = 8  # images in a batch whose predictions are compared, but for single images
_LEAST = 4  # images from which noise is measured


class Asked(NamedTuple):
    """What is looked for: codes of the ``wanted`` rules, and the batch size of training if it is known."""

    wanted: frozenset[str]
    batch_size: int | None


class AsTrained(NamedTuple):
    """What was found; ``None``: not measured."""

    modes: ModeChange | None = None
    noise: dict[str, float] | None = None
    noise_batches: int = 0
    recalibrated: Recalibrated | None = None


def as_trained(
    asked: Asked, sample: Sample, layers: Sequence[LayerFacts], running: Tensor | None, why: dict[str, str]
) -> AsTrained:
    """Run the sample with batch statistics, in as few runs as the ``wanted`` rules take.

    Args:
        asked: what is looked for.
        sample: the images.
        layers: what is known of them with running statistics, in call order.
        running: the scores of the sample with running statistics.
        why: is told why a thing could not be measured.
    """
    if not any(bn.running_mean is not None for bn in layers):
        return AsTrained()
    try:
        return _regrouped(asked, sample, layers, running, why)
    except BNInspectError as error:
        if sample.runner.by is None and not isinstance(error, UncutError):
            raise
        said = f"the images could not be put into other batches: {error}"
        why |= {"noise": said, "modes": said}
        return AsTrained()


def _regrouped(
    asked: Asked, sample: Sample, layers: Sequence[LayerFacts], running: Tensor | None, why: dict[str, str]
) -> AsTrained:
    noise = _noise(asked, sample, layers, why)
    batches = 0 if noise is None or not asked.batch_size else sample.batches(_measured_at(asked.batch_size, sample))
    return AsTrained(
        modes=_modes(asked, sample, running, why),
        noise=noise,
        noise_batches=batches,
        recalibrated=_recalibrated(asked, sample, layers, running),
    )


def _noise(asked: Asked, sample: Sample, layers: Sequence[LayerFacts], why: dict[str, str]) -> dict[str, float] | None:
    """By path; measured in batches of a quarter of the sample at most, scaled to the batch size of training."""
    if asked.batch_size is None:
        why["noise"] = "the batch size of training is not known: give batch_size (--batch-size), or batches as a loader"
    elif sample.images < _LEAST:
        why["noise"] = f"needs {_LEAST} images"
    if "noise" in why or "BN406" not in asked.wanted or asked.batch_size is None:
        return None
    size = _measured_at(asked.batch_size, sample)
    eps = {bn.path: bn.eps or 0.0 for bn in layers}
    return {
        path: size / asked.batch_size * _groups.noise([mean for mean, _ in found], [var for _, var in found], eps[path])
        for path, found in sample.run(size).found.items()
        if len(found) > 1
    }


def _measured_at(batch_size: int, sample: Sample) -> int:
    return min(batch_size, sample.images // 4)


def _modes(asked: Asked, sample: Sample, running: Tensor | None, why: dict[str, str]) -> ModeChange | None:
    if running is None:
        why["modes"] = "the output is no table of scores"
    if "BN404" not in asked.wanted or running is None or len(running) != sample.images:
        return None
    size = _compared_at(asked, sample)
    if 1 < size < _SMALLEST or not size:
        why["modes"] = f"batches of {size} images are too small to compare predictions"
        return None
    run = sample.run(size)
    if size == 1 and run.least < 2:
        why["modes"] = "of a single image a layer has one value per channel, which training refuses"
        return None
    return None if run.table is None else mode_change(running, run.table, sample, size, run.least)


def _compared_at(asked: Asked, sample: Sample) -> int:
    """Single images where training has them; else where noise is measured, if that is large enough; else halves."""
    if asked.batch_size == 1:
        return 1
    measured = _measured_at(asked.batch_size, sample) if asked.batch_size and "BN406" in asked.wanted else 0
    return measured if measured >= _SMALLEST else sample.images // 2


def _recalibrated(
    asked: Asked, sample: Sample, layers: Sequence[LayerFacts], running: Tensor | None
) -> Recalibrated | None:
    """What statistics of the batch in place of the running ones would do, where those do not fit."""
    known = [bn for bn in layers if bn.channels is not None and bn.channels.d is not None]
    first = next((index for index, bn in enumerate(known) if share(bn.far()) > 0.1), None)
    if not asked.wanted & {"BN401", "BN404"} or first is None or sample.images < 2 * _SMALLEST:
        return None
    run = sample.run(sample.images // 2)
    behind = [bn for bn in known[first + 1 :] if bn.path in run.found]
    after = [median(bn.distance(*pooled(run.found[bn.path]))) for bn in behind]
    return Recalibrated(
        layers=len(behind),
        distance_before=median([median(bn.distance(bn.channels.mean, bn.channels.var)) for bn in behind]),
        distance_after=median(after),
        distance_most=max(after, default=math.nan),
        farthest=max(zip(after, behind, strict=True), key=itemgetter(0))[1].path if behind else "",
        decided_before=None if running is None else decided(running),
        decided_after=None if run.table is None else decided(run.table),
        sure_before=None if running is None else sure(running),
        sure_after=None if run.table is None else sure(run.table),
    )


def decided(scores: Tensor) -> float:
    """How much the predictions tell, from 0 to 1: the mutual information of image and class, over its largest value.

    ``(H(mean over images of p) - mean over images of H(p)) / log(classes)``, p the softmax of the scores unless they
    are probabilities already. It is 0 where every image gets the same answer, or none, as broken networks give them.
    """
    p = _probabilities(scores)
    both = _entropy(p.mean(0, keepdim=True)).mean() - _entropy(p).mean()
    return float(both) / math.log(scores.shape[1])


def sure(scores: Tensor) -> float:
    """How sure the predictions are, from 0 to 1: ``1 - mean over images of H(p) / log(classes)``."""
    return 1 - float(_entropy(_probabilities(scores)).mean()) / math.log(scores.shape[1])


def _probabilities(scores: Tensor) -> Tensor:
    p = scores.double()
    known = bool((p >= 0).all()) and bool(torch.isclose(p.sum(1), torch.ones_like(p[:, 0]), atol=1e-3).all())
    return p if known else p.softmax(1)


def _entropy(p: Tensor) -> Tensor:
    return -(p * p.clamp(min=1e-300).log()).sum(1)
