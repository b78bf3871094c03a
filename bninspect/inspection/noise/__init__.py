"""The noise that the statistics of a batch are, in training: measured, and told apart from what is computed from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bninspect.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch
    from torch import Tensor, nn

    from bninspect.report import NoiseReport, Source


def noise(
    model: nn.Module,
    batch: Tensor | Iterable[Any],
    *,
    batch_size: int,
    draws: int = 20,
    seed: int = 0,
    device: str | torch.device | None = None,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    source: Source | None = None,
) -> NoiseReport:
    """How much the mean and the deviation of a batch vary from batch to batch, in every layer that normalises by them.

    Batches are drawn at random from the images given, as from the many that they stand for: an image may be in one
    twice. They run as in training, all layers with the statistics of the batch, but without dropout. The model is left
    as found.

    Args:
        model: any module.
        batch: images prepared as for training, at least ``batch_size``, better ``draws * batch_size / 2``: a tensor
            ``[N, ...]``, or an iterable of pieces as :func:`bninspect.recalibrate` takes them; what is more than
            ``draws * batch_size`` images is not read.
        batch_size: images in a batch.
        draws: how many batches are drawn.
        seed: of the draws.
        device: where to run; default where the model is.
        forward: ``forward(model, step)`` runs steps as those of ``batch``, as in :func:`bninspect.stats`. They are made
            of images drawn from these: each has its entry in the tensors and lists of a step.
        source: where model and batch came from, for the report's header.

    Raises:
        InputError: there are fewer images than ``batch_size``, they do not fit, or are not finite; a layer gets a
            single value per channel; or no layer normalises by the batch.
        ForwardError: the model's forward raised.
    """
    if batch_size < 1 or draws < 2:
        raise InputError(f"batch_size must be at least 1 and draws at least 2; {batch_size} and {draws} were given")
    from bninspect.inspection.noise import figures
    from bninspect.inspection.noise.draws import Draws, images_of
    from bninspect.inspection.noise.layers import chosen
    from bninspect.observe.process import resolve_device, undisturbed
    from bninspect.observe.runner import Runner
    from bninspect.observe.unwrap import unwrap

    model = unwrap(model)
    name = source.model if source and source.model else type(model).__name__
    paths, left = chosen(model, name)
    place = resolve_device(device, model)
    runner = Runner(model, place, name, forward)
    with undisturbed(place, seed):
        images = images_of(batch, draws * batch_size, runner)
        if images.count < max(batch_size, 2):
            raise InputError(
                f"batches of {batch_size} images were asked for, and {images.count} were given: give more images, or "
                "a smaller batch size, from which that of others is computed"
            )
        run = Draws(runner, paths)
        for _ in range(draws):
            run.draw(images, batch_size)
    return figures.report(run, images, batch_size, left, source)
