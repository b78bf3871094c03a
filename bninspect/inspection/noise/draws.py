"""Batches drawn at random and run as in training, without dropout; what each layer saw of each is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bninspect import moments
from bninspect.errors import InputError
from bninspect.inspection.stats.pieces import pieces_of, refuse_unfit
from bninspect.observe.forward import forward
from bninspect.observe.layers import batchnorms, describe
from bninspect.observe.outputs import scores
from bninspect.observe.shadow import remarks, set_mode, shadow
from bninspect.observe.statistics import before_each, measured, normalise_by, statistics_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import nn

    from bninspect.moments import Moments
    from bninspect.report import Float64


def images_of(batch: Any, most: int) -> tuple[Any, ...]:
    """The first images of a batch as one tensor for each input of the model.

    Raises:
        InputError: it is empty, does not fit, or its pieces are of different sizes.
    """
    kept: list[tuple[Any, ...]] = []
    count = 0
    for piece in pieces_of(_inputs(batch), None):
        refuse_unfit(piece[0])
        kept.append(tuple(value[: most - count] for value in piece))
        count += len(kept[-1][0])
        if count >= most:
            break
    if not kept:
        raise InputError("the batch is empty: it held no piece")
    shapes = {tuple(tuple(value.shape[1:]) for value in piece) for piece in kept}
    if len(shapes) > 1:
        raise InputError(f"the pieces of the batch have {len(shapes)} different sizes, and are no images of one batch")
    return tuple(torch.cat(values) for values in zip(*kept, strict=True))


def _inputs(batch: Any) -> Any:
    """Without the labels that a loader's ``[input, label]`` has."""
    if isinstance(batch, Tensor):
        return batch
    return (piece[0] if isinstance(piece, list) and piece else piece for piece in batch)


class Draws:
    """A shadow in eval mode but for these layers, which use the statistics of each batch.

    ``found`` has mean and variance of each batch by layer, ``pooled`` the moments of all of them; ``scores`` the images
    of each batch, each once, and the model's scores of them.
    """

    def __init__(self, model: nn.Module, place: torch.device, paths: Collection[str], *, what: str) -> None:
        self.layers = {path: describe(path, module) for path, module in batchnorms(model).items() if path in paths}
        self.twin, self.place, self.what = shadow(model, device=place), place, what
        self.found: dict[str, list[tuple[Float64, Float64]]] = {}
        self.pooled: dict[str, Moments] = {}
        self.draws = 0
        self.scores: list[tuple[Tensor, Tensor]] = []
        self.dtype: torch.dtype | None = None
        set_mode(self.twin, "eval")
        before_each(self.twin, paths, self._use)

    def _use(self, path: str, module: Any, x: Tensor) -> None:
        seen = measured(x)
        if seen.nonfinite.any():
            raise InputError(f"the input of layer {path} holds {int(seen.nonfinite.sum()):,} NaN or infinite values")
        if seen.count.min(initial=2) < 2:
            raise InputError(
                f"layer {path} got a single value per channel from a batch {list(x.shape)}, on which training fails: "
                "give a larger batch size"
            )
        self.found.setdefault(path, []).append(statistics_of(seen))
        self.pooled[path] = moments.merge(self.pooled[path], seen) if path in self.pooled else seen
        if isinstance(module.running_mean, Tensor):
            normalise_by(module, *statistics_of(seen))

    def draw(self, images: tuple[Any, ...], batch_size: int) -> None:
        """Run a batch of images drawn with replacement."""
        self.draws += 1
        chosen = torch.randint(len(images[0]), (batch_size,))
        inputs = tuple(value[chosen.to(value.device)].to(self.place) for value in images)
        self.dtype = inputs[0].dtype
        table = scores(forward(self.twin, inputs, what=self.what))
        if table is not None and len(table) == batch_size:
            once = dict(zip(chosen.tolist(), range(batch_size), strict=True))
            rows = torch.tensor(list(once.values()))
            self.scores.append((torch.tensor(list(once)), table[rows]))

    def calls(self, path: str) -> int:
        """How often a layer ran in one forward."""
        return max(1, len(self.found[path]) // self.draws)

    def remarks(self) -> tuple[str, ...]:
        """What a reader should know of the forwards."""
        return remarks(self.twin)
