"""A model run with the statistics of each batch, as in training, and its scores beside those of evaluation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from bninspect.inspection.check.hooks import moments_of, scores
from bninspect.observe.layers import batchnorms, given
from bninspect.observe.norms import plain
from bninspect.observe.regroup import UncutError
from bninspect.rules.data_facts import ModeChange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy.typing as npt

    from bninspect.inspection.check.sample import Images
    from bninspect.observe.runner import Runner

    Float64 = npt.NDArray[np.float64]
    Inputs = tuple[Any, ...]

_WORTH = 0.05  # share of changed predictions from which their noise is measured
_FEWEST = 4  # images in the smallest batch that noise is measured in


class Sample:
    """Images that are run with batch statistics, in batches of several sizes; each size once."""

    def __init__(self, runner: Runner, images: Images) -> None:
        self.runner, self.inputs, self.images = runner, images.inputs, images.num_images
        self.cut, self.why = images.cut, images.why
        self._runs: dict[int, BatchRun] = {}

    def batches(self, size: int) -> int:
        """How many batches of about ``size`` there are."""
        return max(1, self.images // max(size, 1))

    def run(self, size: int) -> BatchRun:
        """In batches of about ``size``, of every so many-th image, so that sorted images do not stay together."""
        batches = self.batches(size)
        if batches not in self._runs:
            self._runs[batches] = self.grouped([torch.arange(start, self.images, batches) for start in range(batches)])
        return self._runs[batches]

    def shuffled(self, size: int) -> BatchRun:
        """In batches of about ``size`` at random, the same every time."""
        order = torch.randperm(self.images, generator=torch.Generator().manual_seed(0))
        return self.grouped(order.tensor_split(self.batches(size)))

    def grouped(self, groups: Sequence[Tensor]) -> BatchRun:
        """In these batches."""
        if self.cut is None:
            raise UncutError(self.why)
        return BatchRun(self.runner, (self.cut.rows(self.inputs, group) for group in groups), groups)


class BatchRun:
    """One run of a shadow in eval mode but for BatchNorm, which uses the statistics of each batch, as in training.

    Attributes:
        found: by path, mean and biased variance of each call.
        table: the scores of all images, in their order; ``None`` where the output is no table of scores.
        least: the fewest values per channel that a layer was given.
    """

    def __init__(self, runner: Runner, batches: Iterable[Inputs], groups: Sequence[Tensor]) -> None:
        self.found: dict[str, list[tuple[Float64, Float64]]] = {}
        self.least = math.inf
        twin = runner.twin()
        self._first: int | None = None  # images of a batch, as the first layer sees them
        for path, module in batchnorms(twin).items():
            if isinstance(module, _BatchNorm) and isinstance(module.running_mean, Tensor):
                module.register_forward_pre_hook(self._use(path), with_kwargs=True)
        parts = []
        for inputs, group in zip(batches, groups, strict=True):
            self._first = None
            parts.append(scores(runner.run(twin, inputs)))
            if runner.by is not None and self._first != len(group):
                raise UncutError(f"of {len(group)} images put together anew, the first layer sees {self._first}")
        self.table = _in_order(parts, groups)

    def _use(self, path: str) -> Callable[..., None]:
        def set_statistics(module: Any, args: Any, kwargs: Any) -> None:
            x = plain(given(args, kwargs))
            self._first = len(x) if self._first is None else self._first
            self.least = min(self.least, x.numel() / max(x.shape[1], 1))
            mean, var = moments_of(x)
            self.found.setdefault(path, []).append((mean, var))
            old = module.running_mean
            module.running_mean = torch.from_numpy(mean).to(old)
            module.running_var = torch.from_numpy(var).to(old)

        return set_statistics


def _in_order(parts: Sequence[Tensor | None], groups: Sequence[Tensor]) -> Tensor | None:
    if any(part is None or len(part) != len(group) for part, group in zip(parts, groups, strict=True)):
        return None
    table = torch.cat([part for part in parts if part is not None])
    return table[torch.argsort(torch.cat(list(groups)))]


def pooled(found: Sequence[tuple[Float64, Float64]]) -> tuple[Float64, Float64]:
    """Mean and variance of several batches of one size together."""
    means, variances = np.stack([mean for mean, _ in found]), np.stack([var for _, var in found])
    return means.mean(0), variances.mean(0) + means.var(0)


def change(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Share of differing top predictions, and rms difference in standard deviations of ``a`` over images."""
    disagreement = float((a.argmax(1) != b.argmax(1)).float().mean())
    spread = float(a.var(0, unbiased=False).mean())
    difference = float((a - b).square().mean())
    return disagreement, (difference / spread) ** 0.5 if spread > 0 else 0.0 if difference == 0 else float("inf")


def mode_change(running: Tensor, batch: Tensor, sample: Sample, size: int, values: float) -> ModeChange:
    """Compare scores of running and of batch statistics; where they differ, beside what drawing other images makes.

    A batch of one image is no draw from anything: training saw that image by itself as well.
    """
    disagreement, moved = change(running, batch)
    noise = sampling_noise(batch, sample, size) if disagreement > _WORTH and size > 1 else (0.0, 0.0)
    return ModeChange(
        images=sample.images,
        batch_size=size,
        disagreement=disagreement,
        change=moved,
        disagreement_noise=noise[0],
        change_noise=noise[1],
        values=values,
    )


def sampling_noise(batch: Tensor, sample: Sample, size: int) -> tuple[float, float]:
    """How predictions and scores differ, by chance, between statistics of all data and of ``size`` images drawn.

    If the variance of a statistic over images is s^2, that of a batch of B images is off from all data by s^2 / B. In
    two groupings of the same n images, into batches of B and at random of b, what all n have in common is in both and
    does not show: they differ by s^2 (1 / b + 1 / B - 2 / n). So the one is told from the other, with b small enough
    that there are some eight independent batches; two halves of the images would show little more than one draw.
    """
    fewer = min(size, max(_FEWEST, sample.images // 8))
    again = sample.shuffled(fewer).table
    if again is None:
        return math.inf, math.inf
    ratio = size * (1 / fewer + 1 / size - 2 / sample.images)
    disagreement, moved = change(batch, again)
    return disagreement / ratio**0.5, moved / ratio**0.5
