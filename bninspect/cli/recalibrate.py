"""``bninspect recalibrate``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bninspect import _plugins
from bninspect.cli import _options as options
from bninspect.cli._forward import find_forward
from bninspect.cli._output import emit, lean
from bninspect.errors import InputError
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

SECTION = "Find what is wrong, and put it right"
EPILOG = """\b
Examples:
  bninspect demo demo/ && bninspect recalibrate demo/net.py:net --checkpoint demo/best.pt --batch demo/net.py:loader
  bninspect recalibrate nets.py:model --checkpoint best.pt --batch data.py:loader -o best-bn.pt
  bninspect recalibrate nets.py:model --checkpoint best.pt --set ema --batch train/ -o best-bn.pt
  bninspect recalibrate resnet50 --weights DEFAULT --batch photos/ --batch-size 64 -o resnet50.safetensors
  bninspect recalibrate nets.py:model --batch data.py:loader --how sequential
"""
_STATE_DICTS = (".pt", ".pth", ".safetensors")


@click.command(epilog=EPILOG, short_help="Running statistics that are those of the data.")
@click.argument("model")
@click.option("--batch", metavar="SOURCE", required=True, help="Real data, prepared as for evaluation.")
@click.option("--batch-size", type=click.IntRange(1), help="Split into pieces of this many images.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Write the model: where its values came from a file, that file with other statistics; else a state dict, "
    ".pt or .safetensors. Whole or not at all.",
)
@click.option("--force", is_flag=True, help="FILE may be the file that the values came from.")
@click.option(
    "--set", "which", metavar="NAME", help="Of several sets of weights in --checkpoint, the one that is meant."
)
@click.option(
    "--how",
    type=click.Choice(["fixed-point", "sequential", "train"]),
    default="fixed-point",
    show_default=True,
    help="All layers at once, until nothing moves; layer by layer, exact, a pass for each depth; or with batch "
    "statistics, as in training.",
)
@click.option("--passes", type=click.IntRange(1), default=5, show_default=True, help="The most of fixed-point.")
@options.batch_options
@options.model_options
@options.output_options("bninspect.recalibrate", file=False)
def recalibrate(model: str, batch: str, fmt: str, *, output: str | None, color: str, **settings: Any) -> int:
    """Estimate the running statistics of MODEL from data, exactly, and show how far off they were and are.

    For weights that were averaged, pruned, quantised or loaded without their statistics, and for data of another
    domain. Frozen layers are left as they are. Without -o nothing is written. Where a loader gives labels, or --forward
    returns (scores, labels), accuracy is shown as well.
    """
    found = options.find_model(model, settings)
    if options.is_stored(found):
        options.refuse_to_run(found, "recalibrate")
    origin = settings["checkpoint"] or (model.removeprefix("file:") if settings["allow_pickle"] else None)
    if settings["which"] is not None and settings["checkpoint"] is None:
        raise click.UsageError("--set names a set of weights in --checkpoint, and none was given")
    _refuse_output(output, origin, batch, force=settings["force"])
    report = _recalibrate(found, batch, output, origin, settings)
    renderer = _plugins.formats(report.schema)[fmt]
    emit(lean(report, renderer), renderer, output=None, color=color)
    return 0


def _refuse_output(output: str | None, origin: str | None, batch: str, *, force: bool) -> None:
    """Everything that can be said about the file before any work is done."""
    if output is None:
        return
    shown, path = printable(output), Path(output)
    if not path.parent.is_dir():
        raise InputError(f"{shown} cannot be written: there is no folder {printable(str(path.parent))}")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"{shown} cannot be written: it is a folder, or in one that cannot be written to")
    if _is_same(path, batch.removeprefix("file:")):
        raise InputError(f"-o {shown} is the batch: give another file")
    if origin is not None and _is_same(path, origin) and not force:
        raise InputError(f"-o {shown} is the file that the values came from: give another, or --force to replace it")
    if origin is None and path.suffix.lower() not in _STATE_DICTS:
        raise InputError(f"-o {shown} is to be a state dict, and its name must end in one of {', '.join(_STATE_DICTS)}")


def _is_same(path: Path, other: str) -> bool:
    return path.exists() and os.path.exists(other) and path.samefile(other)  # noqa: PTH110  # takes any text


def _recalibrate(found: Any, batch: str, output: str | None, origin: str | None, settings: dict[str, Any]) -> Any:
    import msgspec

    import bninspect
    from bninspect.cli._live import watching

    forward = find_forward(settings, batch)
    given = options.find_batch(batch, {**settings, "labels": True}, found)
    options.say(settings["verbose"], f"{given.kind} batch {given.name}")
    if given.synthetic and output is not None:
        raise click.UsageError("-o writes statistics of real data, and a random batch is made up: give another --batch")
    built = options.build(found, settings["seed"])
    write = _writer(built, output, origin, settings["which"])
    with watching(None, live=False) as on_piece:
        report = bninspect.recalibrate(
            built,
            given.data,
            how=settings["how"],
            passes=settings["passes"],
            batch_size=None if given.synthetic else settings["batch_size"],
            device=settings["device"],
            forward=forward,
            source=options.source_of(found, given),
            on_piece=on_piece,
        )
    write(report)
    report = msgspec.structs.replace(report, output=output, notes=(*report.notes, *found.notes))
    return options.with_remarks(report, found)


def _writer(built: Any, output: str | None, origin: str | None, which: str | None) -> Callable[[Any], None]:
    """What writes the model once it is right; whether it can is found out now."""
    if output is None:
        return lambda _: None
    if origin is None:
        from bninspect.inspection.recalibrate.state import write_state

        return lambda _: write_state(built, Path(output))
    from bninspect.inspection.recalibrate.layers import chosen
    from bninspect.models.stored import replaced

    layers, _ = chosen(built, type(built).__name__)
    keys = list(built.state_dict())
    replaced.refuse_unfit(origin, keys, which, list(_statistics(built, layers)))

    def write(report: Any) -> None:
        new = _statistics(built, [layer.path for layer in report.layers])
        replaced.write_replaced(origin, Path(output), keys, which, new)

    return write


def _statistics(built: Any, paths: Any) -> dict[str, Any]:
    """Running means and variances of these layers, by every name that they have in the state dict."""
    modules = dict(built.named_modules())
    own = {id(getattr(modules[path], name)) for path in paths for name in ("running_mean", "running_var")}
    values = built.state_dict(keep_vars=True)
    return {key: value.detach().cpu().double().numpy() for key, value in values.items() if id(value) in own}
