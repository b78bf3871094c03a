"""The figures of the noise, one formula each, from what the layers saw of each batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
import torch

from bninspect.observe.process import tool_of
from bninspect.report import LeftLayer, NoiseChannels, NoiseLayer, NoisePredictions, NoiseReport, ScaledNoise, Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from bninspect.inspection.noise.draws import Draws, Images
    from bninspect.layers import BatchNormLayer
    from bninspect.report import Float64

_SYNTHETIC = "the batch is synthetic: real images are alike within, and their noise is another"
SIZES = (2, 4, 8, 16, 32, 64, 128, 256, 512)


def report(
    run: Draws, images: Images, batch_size: int, left: tuple[LeftLayer, ...], source: Source | None
) -> NoiseReport:
    """Everything that the draws showed."""
    layers = tuple(_layer(run.layers[path], run, batch_size) for path in run.found)
    unused = tuple(
        LeftLayer(path=path, kind=layer.kind, num_features=layer.num_features, reason="not executed")
        for path, layer in run.layers.items()
        if path not in run.found
    )
    source = source or Source(model=run.runner.name)
    shape = tuple(images.inputs[0].shape) if run.runner.by is None else None
    return NoiseReport(
        tool=tool_of(run.runner.place, run.dtype, "train"),
        source=msgspec.structs.replace(source, batch_shape=source.batch_shape or shape),
        batch_size=batch_size,
        draws=run.draws,
        error=(2 / (run.draws - 1)) ** 0.5,
        num_images=images.count,
        layers=layers,
        left=(*left, *unused),
        scaled=tuple(_scaled(layers, size) for size in SIZES) if layers else (),
        predictions=predictions(run.scores),
        notes=(
            *_notes(run, images.count, run.draws * batch_size, synthetic=source.synthetic),
            *run.remarks(),
        ),
    )


def _layer(layer: BatchNormLayer, run: Draws, batch_size: int) -> NoiseLayer:
    pooled, calls = run.pooled[layer.path], run.calls(layer.path)
    found = run.found[layer.path]
    mean, var = (np.stack(parts) for parts in zip(*found, strict=True))
    total = pooled.M2 / pooled.count + (layer.eps or 0.0)
    shift, scale = shift_noise(mean, total, calls), scale_noise(var, total, calls)
    between = pooled.image_M2 / np.maximum(pooled.images - 1, 1)
    values = float(pooled.count.max(initial=0) / max(len(found), 1))
    medians = float(np.median(shift)), float(np.median(scale))
    return NoiseLayer(
        path=layer.path,
        kind=layer.kind,
        num_features=layer.num_features,
        positions=values / batch_size,
        calls=calls,
        shift=medians[0],
        shift_p95=float(np.quantile(shift, 0.95)),
        scale=medians[1],
        scale_p95=float(np.quantile(scale, 0.95)),
        c_shift=batch_size * medians[0],
        c_scale=batch_size * medians[1],
        dropout=dropout_rate(medians[1]),
        shift_iid=1 / values,
        channels=NoiseChannels(
            mean=pooled.mean,
            var=pooled.M2 / pooled.count,
            shift=shift,
            scale=scale,
            shift_per_image=between / (batch_size * total),
        ),
    )


def shift_noise(mean: Float64, total: Float64, calls: int = 1) -> Float64:
    """``Var_B(mean_B) / (var + eps)`` of means ``[batches * calls, C]``; calls are told apart."""
    return _variance(mean, calls) / total


def scale_noise(var: Float64, total: Float64, calls: int = 1) -> Float64:
    """``Var_B(var_B) / (4 (var + eps)^2)``, which is the variance of ``ln std_B`` where it is small."""
    return _variance(var, calls) / (4 * total**2)


def _variance(figure: Float64, calls: int) -> Float64:
    """Unbiased over batches; of a layer that is called several times, the mean over its calls."""
    if len(figure) % calls:
        return figure.var(0, ddof=1)  # type: ignore[no-any-return]
    return figure.reshape(-1, calls, figure.shape[1]).var(0, ddof=1).mean(0)  # type: ignore[no-any-return]


def dropout_rate(variance: float) -> float:
    """The rate p of a dropout whose multiplicative noise, of variance ``p / (1 - p)``, is as large."""
    return variance / (1 + variance)


def _scaled(layers: Sequence[NoiseLayer], size: int) -> ScaledNoise:
    shift = np.array([layer.c_shift for layer in layers]) / size
    scale = np.array([layer.c_scale for layer in layers]) / size
    return ScaledNoise(
        batch_size=size,
        shift=float(np.median(shift)),
        shift_max=float(shift.max()),
        scale=float(np.median(scale)),
        scale_max=float(scale.max()),
        dropout=dropout_rate(float(np.median(scale))),
        dropout_max=dropout_rate(float(scale.max())),
    )


def predictions(found: Sequence[tuple[Tensor, Tensor]]) -> NoisePredictions | None:
    """How the scores of the same image differ between batches; the first position alone of a dense prediction."""
    if not found:
        return None
    images = torch.cat([images for images, _ in found])
    table = torch.cat([scores[..., 0] for _, scores in found]).double()
    pairs = differing = 0.0
    within: list[Tensor] = []
    means: list[Tensor] = []
    for image in images.unique():
        own = table[images == image]
        if len(own) > 1:
            counts = own.argmax(1).bincount()
            pairs += len(own) * (len(own) - 1)
            differing += len(own) * (len(own) - 1) - int((counts * (counts - 1)).sum())
            within.append(own.var(0))
            means.append(own.mean(0))
    if len(means) < 2:
        return None
    spread = float(torch.stack(means).var(0).mean())
    noise = float(torch.stack(within).mean())
    return NoisePredictions(
        num_images=len(means), disagreement=differing / pairs, score_noise=noise / spread if spread > 0 else None
    )


def _notes(run: Draws, images: int, drawn: int, *, synthetic: bool) -> tuple[str, ...]:
    notes = [_SYNTHETIC] if synthetic else []
    if images < drawn / 2:
        notes.append(
            f"the batches were drawn from {images:,} images: of less than {drawn // 2:,} they have many in common, and "
            "the noise is that of these images"
        )
    if shared := [path for path in run.found if run.calls(path) > 1]:
        notes.append(f"called more than once in a forward; the noise is the mean over the calls: {', '.join(shared)}")
    return tuple(notes)
