"""``bninspect noise``."""

from __future__ import annotations

from typing import Any

import click

from bninspect import _plugins
from bninspect.cli import _options as options
from bninspect.cli._forward import find_forward
from bninspect.cli._output import emit

EPILOG = """\b
Examples:
  bninspect noise nets.py:model --batch data.py:loader --batch-size 32
  bninspect noise resnet50 --weights DEFAULT --batch photos/ --batch-size 8
  bninspect noise nets.py:model --checkpoint best.pt --batch images.npy --batch-size 16 --draws 50
"""


@click.command(epilog=EPILOG)
@click.argument("model")
@click.option("--batch", metavar="SOURCE", required=True, help="Real images, prepared as for training.")
@click.option("--batch-size", type=click.IntRange(1), required=True, help="Images in a batch of training.")
@click.option("--draws", type=click.IntRange(2), default=20, show_default=True, help="Batches that are drawn.")
@options.batch_options
@options.model_options
@options.output_options("bninspect.noise")
def noise(model: str, batch: str, fmt: str, *, output: str | None, color: str, **settings: Any) -> int:
    """How much the statistics of a batch shake each layer of MODEL in training: the noise that regularises.

    Batches are drawn at random from the images of SOURCE and run as in training, without dropout; the model is left as
    it was found. The noise of other batch sizes, and the dropout of the same variance, are computed from it.
    """
    import msgspec

    import bninspect

    found = options.find_model(model, settings)
    if options.is_stored(found):
        options.refuse_to_run(found, "noise")
    forward = find_forward(settings, batch)
    size = settings["batch_size"]
    given = options.find_batch(batch, {**settings, "batch_size": size * settings["draws"]}, found)
    report = bninspect.noise(
        options.build(found, settings["seed"]),
        given.data,
        batch_size=size,
        draws=settings["draws"],
        seed=settings["seed"],
        device=settings["device"],
        forward=forward,
        source=options.source_of(found, given),
    )
    layers = tuple(msgspec.structs.replace(layer, channels=None) for layer in report.layers)
    report = msgspec.structs.replace(report, layers=layers, notes=(*report.notes, *found.notes))
    emit(options.with_remarks(report, found), _plugins.formats(report.schema)[fmt], output=output, color=color)
    return 0
