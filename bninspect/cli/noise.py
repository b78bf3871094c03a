"""``bninspect noise``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bninspect import _plugins
from bninspect.cli import _options as options
from bninspect.cli._forward import find_forward
from bninspect.cli._output import conclude, emit, lean

if TYPE_CHECKING:
    from bninspect.inspection.snapshot import Snapshot

SECTION = "Find what is wrong, and put it right"
EPILOG = """\b
Examples:
  bninspect demo demo/ && bninspect noise demo/net.py:net --batch demo/net.py:loader --batch-size 32
  bninspect noise nets.py:model --batch data.py:loader --batch-size 32
  bninspect noise resnet50 --weights DEFAULT --batch photos/ --batch-size 8
  bninspect noise nets.py:model --checkpoint best.pt --batch images.npy --batch-size 16 --draws 50
"""


@click.command(epilog=EPILOG, short_help="How much a batch shakes each layer in training.")
@click.argument("model")
@click.option("--batch", metavar="SOURCE", required=True, help="Real images, prepared as for training.")
@click.option("--batch-size", type=click.IntRange(1), required=True, help="Images in a batch of training.")
@click.option("--draws", type=click.IntRange(2), default=20, show_default=True, help="Batches that are drawn.")
@options.batch_options
@options.model_options
@options.output_options("bninspect.noise")
@options.snapshot_options("bninspect.noise")
def noise(
    model: str, batch: str, fmt: str, *, output: str | None, color: str, snapshot: Snapshot | None, **settings: Any
) -> int:
    """How much the statistics of a batch shake each layer of MODEL in training: the noise that regularises.

    Batches are drawn at random from the images of SOURCE and run as in training, without dropout; the model is left as
    it was found. The noise of other batch sizes, and the dropout of the same variance, are computed from it.
    """
    report = _noise(model, batch, settings, hashed=snapshot is not None)
    renderer = _plugins.formats(report.schema)[fmt]
    if snapshot is not None:
        return conclude(report, snapshot, renderer, output=output, color=color, vectors=False)
    emit(lean(report, renderer), renderer, output=output, color=color)
    return 0


def _noise(model: str, batch: str, settings: dict[str, Any], *, hashed: bool) -> Any:
    import msgspec

    import bninspect

    found = options.find_model(model, settings)
    if options.is_stored(found):
        options.refuse_to_run(found, "noise")
    forward = find_forward(settings, batch)
    size = settings["batch_size"]
    given = options.find_batch(batch, {**settings, "batch_size": size * settings["draws"]}, found)
    mark = options.fingerprint(given.data) if hashed else None
    report = bninspect.noise(
        options.build(found, settings["seed"]),
        mark.data if mark else given.data,
        batch_size=size,
        draws=settings["draws"],
        seed=settings["seed"],
        device=settings["device"],
        forward=forward,
        source=options.source_of(found, given),
    )
    source = msgspec.structs.replace(report.source, batch_sha256=mark.digest if mark else None)
    report = msgspec.structs.replace(report, source=source, notes=(*report.notes, *found.notes))
    return options.with_remarks(report, found)
