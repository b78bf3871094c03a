"""What check looks at beside the statistics in one pass over the data: the first layer, scores, repeated calls."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from bninspect.moments import cpu
from bninspect.observe.layers import batchnorms, given
from bninspect.observe.norms import plain
from bninspect.observe.outputs import scores as scores  # noqa: PLC0414  # for batch_mode as well
from bninspect.observe.steps import tensors
from bninspect.rules.data_facts import Padding
from bninspect.rules.facts import median

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from bninspect.observe.forward import Forward

    Float64 = npt.NDArray[np.float64]

_POSITIONS = 64  # positions of a dense prediction that are compared


class Watch:
    """Hooks on a shadow for one pass over the data; :meth:`settle` is called after each piece.

    Args:
        twin: the shadow, whose hooks are carried over to every shadow of it.
        by: the user's own function that will run it, if there is one; :meth:`run` is then to be run in its place.
        repeated: paths of layers that are called more than once in a forward.
        keep: number of images whose scores are kept.
    """

    def __init__(self, twin: nn.Module, by: Forward | None, repeated: set[str], keep: int) -> None:
        self.keep, self.by = keep, by
        self.first: str | None = None
        self.image_means: list[Float64] = []
        self.ends: list[tuple[int, int]] = []
        self.image = False
        self.scores: list[Tensor] = []
        self.calls: dict[str, list[tuple[Float64, Float64]]] = {}
        self._seen = False
        self._means = np.empty((0, 0))
        self._ends: list[tuple[int, int]] = []
        self._squares: list[tuple[str, Tensor]] = []
        self._sums: dict[str, Float64] = {}
        self._output: Any = None
        self._kept = 0
        if by is None:
            twin.register_forward_pre_hook(self._begin)
            twin.register_forward_hook(self._end)
        for path, module in batchnorms(twin).items():
            module.register_forward_pre_hook(self._layer(path, again=path in repeated), with_kwargs=True)

    @property
    def run(self) -> Forward | None:
        """The user's own function, watched."""
        by = self.by
        if by is None:
            return None

        @wraps(by)
        def run(model: nn.Module, step: Any) -> Any:
            self._begin(model, tensors(step))
            output = by(model, step)
            self._end(model, step, output)
            return output

        return run

    def _begin(self, _: nn.Module, args: Any) -> None:
        self._seen = False
        self._squares.clear()
        given, dims = (args, (3, 4)) if self.by else (args[:1], (4,))  # a step may be a list of images
        self.image = any(isinstance(x, Tensor) and x.dim() in dims and x.shape[-3] == 3 for x in given)

    def _end(self, _: nn.Module, __: Any, output: Any) -> None:
        self._output = output

    def _layer(self, path: str, *, again: bool) -> Callable[..., None]:
        def look(module: Any, args: Any, kwargs: Any) -> None:
            x = plain(given(args, kwargs))
            if not self._seen:
                self.first, self._seen = path, True
                self._means, self._ends = _image_means(x), _constant_ends(x)
                self.image = self.image and (self.by is None or x.dim() == 4)
            if isinstance(module.running_mean, Tensor):
                self._squares.append((path, _squares(x, module.running_mean)))
            if again and not self.image_means:
                self.calls.setdefault(path, []).append(moments_of(x))

        return look

    def settle(self) -> None:
        """A piece is done (on a device it may have run twice): keep what the last run showed."""
        if self._seen:
            self.image_means.append(self._means)
            self.ends += self._ends
        for path, sums in self._squares:
            self._sums[path] = self._sums.get(path, 0) + sums.cpu().numpy()
        self._squares.clear()
        if self._kept < self.keep:
            found = scores(self._output)
            if found is not None:
                self.scores.append(found[: self.keep - self._kept])
                self._kept += len(self.scores[-1])
        self._output = None

    def square_errors(self) -> dict[str, Float64]:
        """By path and channel: standard error over images of the mean square around running_mean."""
        found = {}
        for path, (images, first, second) in self._sums.items():
            with np.errstate(invalid="ignore", divide="ignore"):
                spread = np.maximum(second - first**2 / images, 0) / (images - 1)
                found[path] = np.where(images > 1, np.sqrt(spread / images), np.inf)
        return found

    def padding(self) -> Padding | None:
        """Constant ends at the first layer, as ``None`` where it has no positions."""
        if not self.ends:
            return None
        runs = [run for run, _ in self.ends]
        share = sum(runs) / max(sum(length for _, length in self.ends), 1)
        return Padding(share=share, shortest=min(runs), longest=max(runs), image=self.image)

    def repeated(self, stored: dict[str, Any]) -> dict[str, tuple[float, float]]:
        """Largest shift of the mean between calls, in running deviations, and largest ratio of variances."""
        found = {}
        for path, calls in self.calls.items():
            layer = stored[path]
            spread = 1.0 if layer.running_var is None else np.sqrt(layer.running_var.astype(float) + (layer.eps or 0))
            eps = layer.eps or 0.0
            pairs = [(a, b) for index, a in enumerate(calls) for b in calls[index + 1 :]]
            shifts = [median(abs(a[0] - b[0]) / spread) for a, b in pairs]
            ratios = [median(np.exp(abs(np.log((a[1] + eps) / (b[1] + eps))))) for a, b in pairs]
            if pairs:
                found[path] = (max(shifts), max(ratios))
        return found


def _constant_ends(x: Tensor) -> list[tuple[int, int]]:
    """Of each sample: positions in constant runs at the two ends of an axis, and its length; of the axis with most."""
    axes = [_ends_along(x, axis) for axis in range(2, x.dim()) if x.shape[axis] > 1 and len(x)]
    return max(axes, key=lambda ends: sum(run / length for run, length in ends), default=[])


def _ends_along(x: Tensor, axis: int) -> list[tuple[int, int]]:
    """Positions at either end that equal the outermost one in all channels; one position is no run."""
    length = x.shape[axis]
    runs = [_run(x, axis, backwards=backwards) for backwards in (False, True)]
    return [(min(sum(ends), length), length) for ends in zip(*runs, strict=True)]


def _run(x: Tensor, axis: int, *, backwards: bool) -> list[int]:
    ends = [-1, -2] if backwards else [0, 1]
    last, before = (x.select(axis, end) for end in ends)
    if not (last == before).flatten(1).all(1).any():
        return [0] * len(x)
    same = (x == last.unsqueeze(axis)).movedim(axis, -1).flatten(1, -2).all(1)
    runs = (same.flip(-1) if backwards else same).long().cumprod(-1).sum(-1)
    return [int(run) if run > 1 else 0 for run in runs]


def _squares(x: Tensor, center: Tensor) -> Tensor:
    """Number of images; sums over images of the mean square around ``center`` and of its square.

    Some positions of each image will do: it is for an error bar.
    """
    if x.dim() > 2:
        view = x.flatten(2) if x.is_contiguous() else x.movedim(1, -1).flatten(1, -2).transpose(1, 2)
        x = view[..., :: max(1, view.shape[2] // _POSITIONS)]
        squares = (x - center[:, None]).square().mean(2)
    else:
        squares = (x - center).square()
    squares = squares.double()
    return torch.stack([figure.sum(0) for figure in (torch.ones_like(squares), squares, squares.square())])


def _image_means(x: Tensor) -> Float64:
    """Means over positions ``[N, C]``."""
    means: Float64 = (x if x.dim() < 3 else x.flatten(2).mean(2)).double().cpu().numpy()
    return means


def moments_of(x: Tensor) -> tuple[Float64, Float64]:
    """Mean and biased variance per channel."""
    if x.device.type == "cpu":
        found = cpu.measure(x, extremes=False)
        return found.mean, found.M2 / np.maximum(found.count, 1)
    both = torch.var_mean(x.float(), [0, *range(2, x.dim())], correction=0)
    var, mean = torch.stack(both).double().cpu().numpy()
    return mean, var
