"""``bninspect stats``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bninspect import _plugins
from bninspect.cli import _options as options
from bninspect.cli._forward import asked, find_forward, forward_option, is_asked, key_option
from bninspect.cli._output import conclude, emit, shows_channels

if TYPE_CHECKING:
    from bninspect.inspection.snapshot import Snapshot

SMALL = 64  # so many values are printed without being asked for
SECTION = "See what is there"
EPILOG = """\b
Examples:
  bninspect stats resnet18 --batch random --input 3,224,224
  bninspect stats --batch batch.pt --values
  bninspect stats resnet18 --batch batch.pt
  bninspect stats nets.py:model --batch images.npy --batch-size 32 --live
  bninspect stats resnet18 --batch batch.pt --channels --sort z --top 20
  bninspect stats resnet50 --weights DEFAULT --batch photos/ --workers 4
  bninspect stats nets.py:model --batch data.py:loader --max-batches 20
  bninspect stats nets.py:model --batch data.py:loader --batch-key x=pixel_values
  bninspect stats nets.py:detector --batch data.py:loader --forward steps.py:step
  bninspect stats best.pt
  bninspect stats nets.py:model --checkpoint best.pt --batch batch.pt
  bninspect stats resnet18 --batch batch.pt --snapshot bn.json --update
  torchrun --nproc-per-node 4 -m bninspect stats nets.py:model --batch data.py:dataset --parts run/
"""


@click.command(epilog=EPILOG, short_help="What a batch does in every layer, exactly; or what a file holds.")
@click.argument("model", required=False)
@click.option("--batch", metavar="SOURCE", help="A file (.pt, .npy, .npz, .safetensors), images, loader, or random.")
@key_option
@forward_option
@click.option("--batch-size", type=click.IntRange(1), help="Split into pieces of this many images; random: how many.")
@click.option("--transforms", metavar="NAME", help="Of images: as ResNet50_Weights.DEFAULT; default the model's own.")
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True, help="Processes that read images.")
@click.option("--max-batches", type=click.IntRange(1), metavar="K", help="Stop a loader or a folder after K pieces.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of random batches and random weights.")
@options.input_options
@click.option("--layer", metavar="GLOB", help="Only layers whose path matches, such as 'layer4.*'.")
@click.option("--channels", is_flag=True, help="One row per channel.")
@click.option("--sort", metavar="COLUMN", help="Largest first, by a column of the csv format.")
@click.option("--top", type=click.IntRange(1), metavar="K", help="Only the first K rows.")
@click.option("--values/--no-values", default=None, help="Without MODEL: print the normalised batch (small ones are).")
@click.option("--live", is_flag=True, help="On a terminal: show the table while the pieces stream.")
@click.option("--parts", metavar="DIR", help="Measure a share of a data set into DIR, for merge; see torchrun.")
@click.option(
    "--every",
    type=click.FloatRange(0),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="With --parts: how often the part is written.",
)
@click.option(
    "--sample", type=click.IntRange(2), metavar="K", help="With --parts: K images, drawn from all of them by --seed."
)
@click.option("--device", metavar="DEVICE", help="cpu, cuda or cuda:K; default cpu.")
@click.option(
    "--mode",
    type=click.Choice(["eval", "train"]),
    help="Which statistics normalise: eval the running ones (default with MODEL), train those of the batch (without).",
)
@options.model_options
@options.output_options("bninspect.stats")
@options.snapshot_options("bninspect.stats")
def stats(
    model: str | None,
    batch: str | None,
    fmt: str,
    *,
    output: str | None,
    color: str,
    snapshot: Snapshot | None,
    **settings: Any,
) -> int:
    """Exact statistics of what a batch does in every BatchNorm layer of MODEL.

    Without MODEL the batch goes to a fresh BatchNorm layer of its own channel count. Nothing is updated: the model is
    left as it was found. Where MODEL is a file, its stored values are shown:
    no batch is needed, and nothing in the file is run, unless --allow-pickle asks for it.
    """
    if settings["parts"] is not None:
        return _share(model, batch, settings)
    if settings["sample"] is not None:
        raise click.UsageError("--sample draws from a data set that is measured into parts: add --parts DIR")
    report = _measure(model, batch, settings, hashed=snapshot is not None)
    return finish(report, fmt, output=output, color=color, snapshot=snapshot, settings=settings)


def finish(
    report: Any, fmt: str, *, output: str | None, color: str, snapshot: Snapshot | None, settings: dict[str, Any]
) -> int:
    """Print a report of statistics, arranged as ``--channels``, ``--sort`` and ``--top`` say, or guard it."""
    from bninspect.inspection.stats.arrange import arrange

    renderer = _plugins.formats(report.schema)[fmt]
    if snapshot is not None:
        return conclude(report, snapshot, renderer, output=output, color=color, vectors=settings["channels"])
    chosen = settings["sort"] is not None or settings["top"] is not None
    channels = settings["channels"] or (shows_channels(renderer) and not chosen)
    report = arrange(report, channels=channels, sort=settings["sort"], top=settings["top"])
    emit(report, renderer, output=output, color=color)
    return 0


def _share(model: str | None, batch: str | None, settings: dict[str, Any]) -> int:
    from bninspect.cli._share import measure

    if model is None or batch is None:
        raise click.UsageError("--parts needs both a MODEL and a --batch SOURCE")
    if is_asked(settings):
        raise click.UsageError(f"{asked(settings)} runs a loader's steps, and --parts cuts a data set into its own")
    measure(model, batch, settings)
    return 0


def _measure(model: str | None, batch: str | None, settings: dict[str, Any], *, hashed: bool) -> Any:
    if is_asked(settings) and model is None:
        raise click.UsageError(f"{asked(settings)} runs a MODEL, and none was given")
    found = options.find_model(model, settings) if model else None
    if options.is_stored(found):
        return _stored(found, batch, settings)
    if batch is None:
        unasked = ", and are shown without --allow-pickle" if settings["allow_pickle"] else ""
        raise click.UsageError(f"Missing option '--batch': only a file's stored values need none{unasked}")
    return _live(found, batch, settings, hashed=hashed)


def _stored(found: Any, batch: str | None, settings: dict[str, Any]) -> Any:
    from bninspect.inspection.stats.stored import stored_stats

    if batch is not None or is_asked(settings):
        options.refuse_to_run(found, "--batch" if batch is not None else asked(settings))
    return stored_stats(found.layers, options.source_of(found), found.notes, layer=settings["layer"])


def _live(found: Any, batch: str, settings: dict[str, Any], *, hashed: bool) -> Any:
    import msgspec

    import bninspect
    from bninspect.cli._live import watching

    forward = find_forward(settings, batch)
    given = options.find_batch(batch, settings, found)
    options.say(settings["verbose"], f"{given.kind} batch {given.name}")
    built = options.build(found, settings["seed"])
    mark = options.fingerprint(given.data) if hashed else None
    with watching(given.num_images, live=settings["live"]) as on_piece:
        report = bninspect.stats(
            built,
            mark.data if mark else given.data,
            mode=settings["mode"],
            batch_size=None if given.synthetic else settings["batch_size"],
            device=settings["device"],
            layer=settings["layer"],
            forward=forward,
            values=_wants_values(found, given, settings["values"]),
            source=options.source_of(found, given),
            on_piece=on_piece,
        )
    source = msgspec.structs.replace(report.source, batch_sha256=mark.digest if mark else None)
    notes = (*report.notes, *(found.notes if found else ()))
    report = msgspec.structs.replace(report, source=source, notes=notes)
    return options.with_remarks(report, found) if found else report


def _wants_values(found: Any, given: Any, asked: bool | None) -> bool:  # noqa: FBT001
    if found is not None:
        if asked:
            raise click.UsageError("--values prints the batch normalised by a fresh layer: leave MODEL out")
        return False
    if asked is not None:
        return asked
    return hasattr(given.data, "numel") and given.data.numel() <= SMALL
