"""``bninspect summary``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bninspect import _plugins
from bninspect.cli import _options as options
from bninspect.cli._output import conclude, emit

if TYPE_CHECKING:
    from bninspect.inspection.snapshot import Snapshot

SECTION = "See what is there"
EPILOG = """\b
Examples:
  bninspect summary resnet18 --input 3,418,418
  bninspect summary nets.py:make --input 3,224,224 --model-arg width=64
  bninspect summary raft_large --input 3,256,256 --input 3,256,256
  bninspect summary resnet18 --input 3,418,418 --all-layers --format ordereddict
  bninspect summary timm:mobilenetv3_small_050 --input 3,224,224
  bninspect summary best.pt
  bninspect summary resnet18 --input 3,224,224 --snapshot bn.json --update
"""


@click.command(epilog=EPILOG, short_help="Shapes, sizes and settings of every BatchNorm layer.")
@click.argument("model")
@options.input_options
@click.option("--batch-size", type=click.IntRange(1), default=2, show_default=True, help="Shown as -1 in the shapes.")
@click.option(
    "--mode",
    type=click.Choice(["eval", "train"]),
    default="eval",
    show_default=True,
    help="The mode that the forward runs in; the modes shown are those that were found.",
)
@click.option("--all-layers", is_flag=True, help="One row per call of any layer, not of BatchNorm layers alone.")
@options.model_options
@options.output_options("bninspect.summary")
@options.snapshot_options("bninspect.summary")
def summary(
    model: str,
    shapes: tuple[tuple[int, ...], ...],
    fmt: str,
    output: str | None,
    color: str,
    *,
    snapshot: Snapshot | None,
    **settings: Any,
) -> int:
    """Shapes, sizes and settings of every BatchNorm layer of MODEL.

    MODEL is a torchvision name (resnet18), timm:NAME, hf-hub:ORG/NAME, or your own: package.module:callable or
    nets.py:callable, an nn.Module or what makes one. Shapes are found without memory or arithmetic where the model
    allows it. MODEL may also be a file (checkpoint, pickled module, safetensors, .pt2): its stored layers are listed,
    and nothing in it is run, unless --allow-pickle asks for it.
    """
    found = options.find_model(model, settings)
    options.say(settings["verbose"], f"{found.kind} model {found.name}")
    report = _summarise(found, shapes, settings)
    renderer = _plugins.formats(report.schema)[fmt]
    if snapshot is not None:
        return conclude(report, snapshot, renderer, output=output, color=color, vectors=False)
    emit(report, renderer, output=output, color=color)
    return 0


def _summarise(found: Any, shapes: tuple[tuple[int, ...], ...], settings: dict[str, Any]) -> Any:
    import msgspec

    import bninspect

    if options.is_stored(found):
        return _stored(found, shapes)
    notes: tuple[str, ...] = ()
    if not shapes and found.input_size and (known := found.input_size()):
        whose, size = known
        shapes, notes = (size,), (f"the input is of the size that {whose} is evaluated with: --input gives another",)
    if not shapes:
        raise click.UsageError("summary needs the shape of an input: add --input C,H,W, such as --input 3,224,224")
    names = ("dtypes", "batch_size", "mode", "all_layers")
    report = bninspect.summary(
        found.outline or found.build,
        shapes,
        source=options.source_of(found),
        **{name: settings[name] for name in names},
    )
    report = options.with_remarks(report, found)
    return msgspec.structs.replace(report, notes=(*report.notes, *notes))


def _stored(found: Any, shapes: tuple[tuple[int, ...], ...]) -> Any:
    from bninspect.inspection.summary.stored import stored_summary

    if shapes:
        options.refuse_to_run(found, "--input")
    return stored_summary(found.layers, options.source_of(found), found.notes)
