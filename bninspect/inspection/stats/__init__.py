"""What a batch does in every BatchNorm layer: exact per-channel statistics, beside the running ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bninspect.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch
    from torch import Tensor, nn

    from bninspect.report import Mode, Source, StatsReport


def stats(
    model: nn.Module | None,
    batch: Tensor | Iterable[Any],
    *,
    mode: Mode | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    layer: str | None = None,
    extremes: bool = True,
    values: bool = False,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    source: Source | None = None,
    on_piece: Callable[[int, Callable[[], StatsReport]], None] | None = None,
) -> StatsReport:
    """Exact statistics of the input of every BatchNorm layer, over all pieces of a batch; the model is left as found.

    Args:
        model: any module; ``None`` gives the batch to a fresh ``BatchNorm{1,2,3}d`` of its own channel count.
        batch: a tensor ``[N, ...]``; or an iterable of tensors, the pieces of a stream, which are pooled exactly. A
            piece for a model of several inputs is a tuple of tensors.
        mode: ``eval`` (the default with a model): running statistics normalise. ``train`` (the default without):
            as in training, batch statistics normalise. Buffers are untouched either way.
        batch_size: split tensors along N into pieces of this size; memory then does not grow with N.
        device: where to run; default where the model is.
        layer: a glob over paths; only these layers are measured.
        extremes: also find min, max and the share of zeros.
        values: without a model, return the normalised output as well.
        forward: ``forward(model, step)`` runs each step of ``batch`` just as it comes, moved to the device: a dict, a
            list of images, whatever a loader makes. It gets a copy of the model, and runs without gradients unless it
            enables them. Images are counted at the first layer; ``batch_size`` splits steps that are a tensor or have
            names for tensors of one length.
        source: where model and batch came from, for the report's header.
        on_piece: called after each piece with the number of images seen and a function that gives the report so far.

    Raises:
        InputError: the batch does not fit, holds integers, is empty; or the glob matches nothing.
        ForwardError: the model's forward raised.
    """
    from bninspect.inspection.stats.pieces import as_given, first_of, fresh_layer, pieces_of, with_values
    from bninspect.inspection.stats.run import Run
    from bninspect.observe.process import resolve_device, undisturbed
    from bninspect.observe.shadow import set_mode
    from bninspect.observe.unwrap import unwrap

    bare = model is None
    if forward is not None and bare:
        raise InputError("forward runs a model, and none was given")
    pieces = pieces_of(batch, batch_size) if forward is None else as_given(batch, batch_size)
    if model is None:
        first, pieces = first_of(pieces)
        mode, model = mode or "train", fresh_layer(first[0])
    model, mode = unwrap(model), mode or "eval"
    place = resolve_device(device, model)
    run = Run(model, mode, place, layer=layer, extremes=extremes, source=source, by=forward)
    if bare:  # no figure needs a piece normalised, and one of a single row could not be
        set_mode(run.twin, "eval")
    output = []
    with undisturbed(place):
        for piece in pieces:
            result = run.feed(piece)
            if values:
                output.append((piece[0], result))
            if on_piece:
                on_piece(run.images, run.report)
    if not run.pieces:
        raise InputError("the batch is empty: it held no piece")
    report = run.report()
    return with_values(report, output) if values else report
