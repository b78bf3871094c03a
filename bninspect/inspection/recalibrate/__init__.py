"""Running statistics estimated from data, exactly, and proof that they are those of the data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import msgspec

from bninspect.errors import InputError
from bninspect.report import How

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch
    from torch import Tensor, nn

    from bninspect.report import RecalibrateReport, Source, StatsReport


def recalibrate(
    model: nn.Module,
    batch: Tensor | Iterable[Any],
    *,
    how: How = "fixed-point",
    passes: int = 5,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    source: Source | None = None,
    on_piece: Callable[[int, Callable[[], StatsReport]], None] | None = None,
) -> RecalibrateReport:
    """Set ``running_mean`` and ``running_var`` of the model's layers to those of the data; nothing else is changed.

    They are pooled exactly over all pieces, in float64; ``running_var`` becomes the biased variance, which is what eval
    mode divides by. Layers that are frozen, that keep no statistics or that are not executed are left as they are, and
    so is everything where anything fails.

    Args:
        model: any module; its buffers are written to in place, once everything has succeeded.
        batch: data prepared as for evaluation: a tensor ``[N, ...]``; or what can be gone through several times: a list
            or a DataLoader of tensors, of tuples of them for a model of several inputs, or of lists
            ``[input, labels]``.
        how: ``fixed-point``: all layers at once, in eval mode, until no ``|d|`` is above 0.01 and no r outside 1 +-
            0.01. ``sequential``: layer by layer in call order, exact; one pass over the data for each depth.
            ``train``: batch statistics normalise, as in training (Wu and Johnson, arXiv 2105.07576: precise-BN); for a
            net that will be trained on.
        passes: the most estimates that ``fixed-point`` makes.
        batch_size: split tensors along N into pieces of this size.
        device: where to run; default where the model is.
        forward: ``forward(model, step)`` runs each step of ``batch`` just as it comes, as in :func:`bninspect.stats`.
            What it returns may be ``(scores, labels)``; else labels are those of the step, by name or as its second.
        source: where model and batch came from, for the report's header.
        on_piece: called after each piece with the number of images seen in this pass and a function that gives the
            statistics so far.

    Raises:
        InputError: the batch does not fit, is empty, not finite, of less than 2 values per channel, or can be gone
            through once only; or no layer can be estimated.
        ForwardError: the model's forward raised.
    """
    if how not in get_args(How):
        raise InputError(f"how is one of {', '.join(get_args(How))}, and not {how!r}")
    if passes < 1:
        raise InputError(f"passes must be at least 1, and {passes} was given")
    from bninspect.inspection.recalibrate import buffers, figures
    from bninspect.inspection.recalibrate.data import Data
    from bninspect.inspection.recalibrate.hows import HOWS
    from bninspect.inspection.recalibrate.layers import NOT_EXECUTED, chosen, coarse, left_out
    from bninspect.inspection.recalibrate.trial import Trial
    from bninspect.observe.process import resolve_device
    from bninspect.observe.unwrap import unwrap

    data, model = Data(batch, batch_size, by=forward), unwrap(model)
    name = source.model if source and source.model else type(model).__name__
    layers, left = chosen(model, name)
    trial = Trial(model, resolve_device(device, model), data, source, on_piece)
    before = trial.run(tuple(layers))
    paths = tuple(before.layers(layers))
    left += tuple(left_out(path, layers[path], NOT_EXECUTED) for path in layers if path not in paths)
    estimate = HOWS[how](trial, before, paths, passes)
    report = figures.report(how, before, estimate, paths, left)
    buffers.put(layers, estimate.values, report.num_pieces)
    return msgspec.structs.replace(report, notes=(*report.notes, *coarse(layers)))
