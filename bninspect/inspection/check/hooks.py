"""What check looks at beside the statistics: the first layer, the scores, repeated calls, and batch statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bninspect.errors import BNInspectError
from bninspect.moments import cpu
from bninspect.observe.forward import forward
from bninspect.observe.layers import batchnorms
from bninspect.observe.shadow import set_mode
from bninspect.rules.data_facts import Candidate, ModeChange, Padding
from bninspect.rules.facts import median

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    Float64 = npt.NDArray[np.float64]
    Inputs = tuple[Any, ...]

_POSITIONS = 64  # positions of a dense prediction that are compared
_WORTH = 0.05  # share of changed predictions from which their noise is measured
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Watch:
    """Hooks on a shadow for one pass over the data; :meth:`settle` is called after each piece.

    Args:
        twin: the shadow, whose hooks are carried over to every shadow of it.
        repeated: paths of layers that are called more than once in a forward.
        keep: number of images whose scores are kept.
    """

    def __init__(self, twin: nn.Module, repeated: set[str], keep: int) -> None:
        self.keep = keep
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
        twin.register_forward_pre_hook(self._begin)
        twin.register_forward_hook(self._end)
        for path, module in batchnorms(twin).items():
            module.register_forward_pre_hook(self._layer(path, again=path in repeated), with_kwargs=True)

    def _begin(self, _: nn.Module, args: Any) -> None:
        self._seen = False
        self._squares.clear()
        self.image = bool(args) and isinstance(args[0], Tensor) and args[0].dim() == 4 and args[0].shape[1] == 3

    def _end(self, _: nn.Module, __: Any, output: Any) -> None:
        self._output = output

    def _layer(self, path: str, *, again: bool) -> Callable[..., None]:
        def look(module: Any, args: Any, kwargs: Any) -> None:
            x = _given(args, kwargs)
            if not self._seen:
                self.first, self._seen = path, True
                self._means, self._ends = _image_means(x), _constant_ends(x)
            if isinstance(module.running_mean, Tensor):
                self._squares.append((path, _squares(x, module.running_mean)))
            if again and not self.image_means:
                self.calls.setdefault(path, []).append(_moments(x))

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
    """Of each sample: positions at the end of the last axis that equal the last one in all channels, and positions."""
    if x.dim() < 3 or x.shape[-1] < 2 or not len(x):
        return []
    length = x.shape[-1]
    if not (x[..., -1] == x[..., -2]).flatten(1).all(1).any():
        return [(0, length)] * len(x)
    same = (x == x[..., -1:]).flatten(1, -2).all(1)
    runs = same.flip(-1).long().cumprod(-1).sum(-1)
    return [(int(run) if run > 1 else 0, length) for run in runs]


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


def _given(args: Any, kwargs: Any) -> Any:
    return args[0] if args else next(iter(kwargs.values()))


def _moments(x: Tensor) -> tuple[Float64, Float64]:
    """Mean and biased variance per channel."""
    if x.device.type == "cpu":
        found = cpu.measure(x, extremes=False)
        return found.mean, found.M2 / np.maximum(found.count, 1)
    both = torch.var_mean(x.float(), [0, *range(2, x.dim())], correction=0)
    var, mean = torch.stack(both).double().cpu().numpy()
    return mean, var


def scores(output: Any) -> Tensor | None:
    """The table of scores ``[N, classes, positions]`` of a model's output; ``None`` if there is none."""
    if isinstance(output, dict):
        output = next((output[name] for name in ("logits", "out") if name in output), next(iter(output.values()), None))
    elif hasattr(output, "logits"):
        output = output.logits
    elif isinstance(output, (list, tuple)):
        output = output[0] if output else None
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.dim() < 2 or output.shape[1] < 2:
        return None
    table = output.detach().flatten(2) if output.dim() > 2 else output.detach().unsqueeze(2)
    return table[..., :: max(1, table.shape[2] // _POSITIONS)].float().cpu()


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
            mean, var = _moments(_given(args, kwargs))
            self.found.setdefault(path, []).append((mean, var))
            old = module.running_mean
            module.running_mean = torch.from_numpy(mean).to(old)
            module.running_var = torch.from_numpy(var).to(old)

        return set_statistics

    def scores(self, inputs: Inputs, groups: Sequence[Tensor], *, what: str) -> Tensor | None:
        """Scores of the images of these groups, in their order; ``None`` where the output is no table of scores."""
        parts = []
        for group in groups:
            given = tuple(value[group.to(value.device)].to(self.place) for value in inputs)
            parts.append(scores(forward(self.twin, given, what=what)))
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


class _ArrivedError(BNInspectError):
    """The forward has reached the layer that was waited for."""


def candidates(twin: nn.Module, first: str, x: Tensor, layer: Any, what: str) -> tuple[Candidate, ...]:
    """How far the first BatchNorm is from its statistics for changes of the image ``x``; the forward ends there.

    The squared Wasserstein distance of two normal distributions in units of running_var, mean over channels: d^2 alone
    would be served by any change that makes the image vanish.
    """
    found: list[float] = []

    def stop(_: nn.Module, args: Any, kwargs: Any) -> None:
        mean, var = _moments(_given(args, kwargs))
        spread = np.sqrt(var) - np.sqrt(np.maximum(layer.running_var, 0))
        apart = ((mean - layer.running_mean) ** 2 + spread**2) / (layer.running_var + layer.eps)
        found.append(float(apart.mean()))
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
