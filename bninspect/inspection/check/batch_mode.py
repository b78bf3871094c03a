"""A model run with the statistics of each batch, as in training, and its scores beside those of evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bninspect.inspection.check.hooks import moments_of, scores
from bninspect.observe.forward import forward
from bninspect.observe.layers import batchnorms, given
from bninspect.observe.norms import plain
from bninspect.observe.shadow import set_mode
from bninspect.rules.data_facts import ModeChange

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt

    Float64 = npt.NDArray[np.float64]
    Inputs = tuple[Any, ...]

_WORTH = 0.05  # share of changed predictions from which their noise is measured


class BatchRun:
    """A shadow in eval mode but for BatchNorm, which uses the statistics of each batch, as in training."""

    def __init__(self, twin: nn.Module, place: torch.device) -> None:
        self.twin, self.place = twin, place
        self.found: dict[str, list[tuple[Float64, Float64]]] = {}
        set_mode(twin, "eval")
        for path, module in batchnorms(twin).items():
            if isinstance(module, _BatchNorm) and isinstance(module.running_mean, Tensor):
                module.register_forward_pre_hook(self._use(path), with_kwargs=True)

    def _use(self, path: str) -> Callable[..., None]:
        def set_statistics(module: Any, args: Any, kwargs: Any) -> None:
            mean, var = moments_of(plain(given(args, kwargs)))
            self.found.setdefault(path, []).append((mean, var))
            old = module.running_mean
            module.running_mean = torch.from_numpy(mean).to(old)
            module.running_var = torch.from_numpy(var).to(old)

        return set_statistics

    def scores(self, inputs: Inputs, groups: Sequence[Tensor], *, what: str) -> Tensor | None:
        """Scores of the images of these groups, in their order; ``None`` where the output is no table of scores."""
        parts = []
        for group in groups:
            inside = tuple(value[group.to(value.device)].to(self.place) for value in inputs)
            parts.append(scores(forward(self.twin, inside, what=what)))
        if any(part is None or len(part) != len(group) for part, group in zip(parts, groups, strict=True)):
            return None
        table = torch.cat([part for part in parts if part is not None])
        return table[torch.argsort(torch.cat(list(groups)))]


def strided(images: int, batches: int) -> list[Tensor]:
    """Every ``batches``-th image together, so that sorted images do not stay together."""
    return [torch.arange(start, images, batches) for start in range(batches)]


def shuffled(images: int, batches: int) -> list[Tensor]:
    """Another grouping, at random."""
    return list(torch.randperm(images).tensor_split(batches))


def change(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Share of differing top predictions, and rms difference in standard deviations of ``a`` over images."""
    disagreement = float((a.argmax(1) != b.argmax(1)).float().mean())
    spread = float(a.var(0, unbiased=False).mean())
    difference = float((a - b).square().mean())
    return disagreement, (difference / spread) ** 0.5 if spread > 0 else 0.0 if difference == 0 else float("inf")


def mode_change(running: Tensor, batch: Tensor, run: BatchRun, inputs: Inputs, size: int, *, what: str) -> ModeChange:
    """Compare scores; where they differ, half of the images are run again in other batches, which shows the noise."""
    disagreement, moved = change(running, batch)
    noise = (0.0, 0.0)
    if disagreement > _WORTH:
        groups = shuffled(len(running), len(running) // size)
        groups = groups[: max(1, len(groups) // 2)]
        again = run.scores(inputs, groups, what=what)
        noise = noise if again is None else change(batch[torch.cat(groups).sort().values], again)
    return ModeChange(
        batch_size=size, disagreement=disagreement, change=moved, disagreement_noise=noise[0], change_noise=noise[1]
    )
