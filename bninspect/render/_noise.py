"""How noise is shown: what was measured in each layer, what follows for other batch sizes, and what it means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bninspect.render._recalibrate import left
from bninspect.render._view import Column, Table, View, number, prepared, versions

if TYPE_CHECKING:
    from bninspect.report import NoiseLayer, NoiseReport, ScaledNoise

_LAYER = (
    Column("layer", "left"),
    Column("channels", "right", 3),
    Column("positions", "right", 2),
    Column("shift"),
    Column("95th", "right", 1),
    Column("scale"),
    Column("95th", "right", 1),
    Column("B shift^2", "right", 2),
    Column("B scale^2", "right", 2),
    Column("= dropout"),
    Column("shift if iid", "right", 1),
)
_SIZE = (
    Column("batch size", "right"),
    Column("shift"),
    Column("scale"),
    Column("= dropout"),
    Column("most shift", "right", 1),
    Column("most scale", "right", 1),
)


def view(report: NoiseReport) -> View:
    """Measured: layers in call order; computed: other batch sizes; then what can be concluded."""
    layers = Table(columns=_LAYER, rows=tuple(map(_layer, report.layers)))
    sizes = Table(columns=_SIZE, rows=tuple(map(_scaled, report.scaled)))
    return View(
        title=f"Noise of batch statistics in {report.source.model} on {report.source.batch or 'a batch'}",
        above=(versions(report.tool), _how(report), *_legend(report)),
        tables=(layers, sizes) if report.layers else (),
        below=(*_meaning(report), *left(report.left), *(f"Note: {note}" for note in report.notes)),
    )


def _how(report: NoiseReport) -> str:
    return (
        f"{report.draws} batches of {report.batch_size} images, drawn from {report.num_images:,} "
        f"images{prepared(report.source)}; batch statistics normalise, as in training; dropout is off"
    )


def _legend(report: NoiseReport) -> tuple[str, ...]:
    return (
        "Measured: shift and scale, the standard deviation over batches of a channel's mean and of its deviation, in "
        "parts of that deviation; medians over channels. The square of a single channel's is known to "
        f"{100 * report.error:.0f} %.",
        "Computed from these: all else. iid is for comparison only: the positions of an image are not independent.",
    )


def _layer(layer: NoiseLayer) -> tuple[str, ...]:
    return (
        layer.path or layer.kind,
        number(layer.num_features),
        number(layer.positions),
        _part(layer.shift),
        _part(layer.shift_p95),
        _part(layer.scale),
        _part(layer.scale_p95),
        number(layer.c_shift),
        number(layer.c_scale),
        _percent(layer.dropout),
        _part(layer.shift_iid),
    )


def _scaled(size: ScaledNoise) -> tuple[str, ...]:
    return (
        number(size.batch_size),
        _part(size.shift),
        _part(size.scale),
        _percent(size.dropout),
        _part(size.shift_max),
        _part(size.scale_max),
    )


def _part(variance: float) -> str:
    """A variance as a standard deviation in percent."""
    return _percent(variance**0.5)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _meaning(report: NoiseReport) -> tuple[str, ...]:
    """What can and what cannot be concluded, in plain words."""
    if not report.layers:
        return ("No layer that normalises by the batch was executed.",)
    ordered = sorted(report.layers, key=lambda layer: layer.scale)
    middle, most = ordered[(len(ordered) - 1) // 2], ordered[-1]
    return (
        f"In training with batches of {report.batch_size}, the other images of the batch scale each channel at random: "
        f"by {_part(middle.scale)} in a typical layer, by {_part(most.scale)} in {most.path or most.kind}, where it is "
        f"strongest. Dropout at a rate of {_percent(middle.dropout)} ({_percent(most.dropout)}) makes noise of that "
        "variance.",
        "It is not the same thing: this is one draw for all images and positions of a channel, while dropout has "
        "another for each value; and the shift has no counterpart in dropout.",
        *_felt(report),
        "What can be concluded: how strong the noise is at this batch size, that its variance halves where the batch "
        "size doubles, and that it is gone in eval mode. What cannot: that it regularises this net as dropout would, "
        "or that it replaces dropout; only the loss on held-out data tells.",
    )


def _felt(report: NoiseReport) -> tuple[str, ...]:
    found = report.predictions
    if found is None:
        return ()
    return (
        f"Measured at the output: in {_percent(found.disagreement)} of the cases the same image gets another top "
        "prediction in another batch.",
    )
