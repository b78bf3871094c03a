"""Batches drawn at random and run as in training, without dropout; what each layer saw of each is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import bninspect
from bninspect import moments
from bninspect.errors import InputError
from bninspect.inspection.stats.pieces import as_given, first_of, given, pieces_of, refuse_unfit
from bninspect.observe.layers import batchnorms, describe
from bninspect.observe.outputs import scores
from bninspect.observe.regroup import Cut
from bninspect.observe.shadow import remarks
from bninspect.observe.statistics import before_each, measured, normalise_by, statistics_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from bninspect.moments import Moments
    from bninspect.observe.runner import Runner
    from bninspect.report import Float64


class Images:
    """The first images of a batch as the inputs of one forward.

    Args:
        pieces: inputs of a forward each.
        cut: how they are cut into images.
        most: of these; the rest is not read.

    Raises:
        InputError: the pieces cannot be put together.
    """

    def __init__(self, pieces: Iterator[tuple[Any, ...]], cut: Cut, most: int) -> None:
        kept: list[tuple[Any, ...]] = []
        count = 0
        while count < most and (piece := next(pieces, None)) is not None:
            kept.append(piece)
            count += cut.images(piece)
        self.cut, self.inputs, self.count = cut, cut.joined(kept), min(count, most)

    def drawn(self, numbers: Tensor) -> tuple[Any, ...]:
        """The images with these numbers."""
        return self.cut.rows(self.inputs, numbers)


def images_of(batch: Any, most: int, runner: Runner) -> Images:
    """The first images of a batch.

    Raises:
        InputError: it is empty, does not fit, or its pieces are of different sizes.
    """
    pieces = _fitting(batch) if runner.by is None else as_given(batch, None)
    first, pieces = first_of(pieces)
    count = len(first[0]) if runner.by is None else _counted(first, runner)
    return Images(pieces, Cut(first, count), most)


def _fitting(batch: Any) -> Iterator[tuple[Any, ...]]:
    for piece in pieces_of(_inputs(batch), None):
        refuse_unfit(piece[0])
        yield piece


def _counted(inputs: tuple[Any, ...], runner: Runner) -> int:
    """How many images a step has, which only its run can tell."""
    found = bninspect.stats(runner.model, list(inputs), forward=runner.by, device=runner.place)
    if not found.num_images:
        raise InputError("the function that was given runs no BatchNorm layer of the model that it gets")
    return found.num_images


def _inputs(batch: Any) -> Any:
    """Without the labels that a loader's ``[input, label]`` has."""
    return (piece[0] if isinstance(piece, list) and piece else piece for piece in given(batch))


class Draws:
    """A shadow in eval mode but for these layers, which use the statistics of each batch.

    ``found`` has mean and variance of each batch by layer, ``pooled`` the moments of all of them; ``scores`` the images
    of each batch, each once, and the model's scores of them.
    """

    def __init__(self, runner: Runner, paths: Collection[str]) -> None:
        layers = batchnorms(runner.model)
        self.layers = {path: describe(path, module) for path, module in layers.items() if path in paths}
        self.runner, self.twin = runner, runner.twin()
        self.found: dict[str, list[tuple[Float64, Float64]]] = {}
        self.pooled: dict[str, Moments] = {}
        self.draws = 0
        self.scores: list[tuple[Tensor, Tensor]] = []
        self.dtype: torch.dtype | None = None
        self.first: int | None = None  # images of a batch, as the first layer sees them
        before_each(self.twin, paths, self._use)

    def _use(self, path: str, module: Any, x: Tensor) -> None:
        self.first = len(x) if self.first is None else self.first
        self.dtype = self.dtype or x.dtype
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

    def draw(self, images: Images, batch_size: int) -> None:
        """Run a batch of images drawn with replacement."""
        self.draws += 1
        self.first = None
        chosen = torch.randint(images.count, (batch_size,))
        table = scores(self.runner.run(self.twin, images.drawn(chosen)))
        if self.runner.by is not None and self.first != batch_size:
            raise InputError(f"of {batch_size} images put together anew, the first layer sees {self.first}")
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
