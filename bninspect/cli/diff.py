"""``bninspect diff``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bninspect import _plugins
from bninspect.cli import _options as options
from bninspect.cli._output import emit
from bninspect.models import StoredModel

_NOT_OF_A_FILE: dict[str, Any] = {"weights": None, "model_args": (), "checkpoint": None}
_OF_A_FILE: dict[str, Any] = {"allow_pickle": False}
SECTION = "Compare, and show"
EPILOG = """\b
Examples:
  bninspect diff resnet50 wide_resnet50_2
  bninspect diff before.json after.json
  bninspect diff epoch1.pt epoch2.pt --tolerance strict
  bninspect diff rank0.safetensors rank1.safetensors --format markdown
  bninspect diff nets.py:model best.pt
"""


@click.command(epilog=EPILOG, short_help="What differs between two reports, files or models.")
@click.argument("a")
@click.argument("b")
@options.tolerance_option
@options.model_options
@options.output_options("bninspect.diff")
def diff(a: str, b: str, fmt: str, *, output: str | None, color: str, tolerance: str, **settings: Any) -> int:
    """What differs between A and B: layers, settings, and channels that moved.

    Each side is a stored report (what --format json or --snapshot wrote), or a MODEL, of which the stored values are
    compared. Exit code 1 where anything differs, 0 where nothing does.
    """
    from bninspect.inspection import diff as comparison

    limits = comparison.tolerance_of(tolerance)
    if all(Path(text).is_file() for text in (a, b)) and (settings["weights"] or settings["checkpoint"]):
        raise click.UsageError("--weights and --checkpoint fill a model that can run, and both sides are files")
    if settings["allow_pickle"] and not any(Path(text).is_file() for text in (a, b)):
        raise click.UsageError("--allow-pickle runs the code of a file, and neither side is one")
    sides = [_side(text, settings) for text in (a, b)]
    report = comparison.diff(*sides, tolerance=limits)
    emit(report, _plugins.formats(report.schema)[fmt], output=output, color=color)
    return 0 if report.equal else 1


def _side(text: str, settings: dict[str, Any]) -> Any:
    from bninspect.inspection.snapshot import file as snapshot
    from bninspect.inspection.stats.stored import stored_stats

    path = Path(text)
    if snapshot.is_stored_report(path):
        options.say(settings["verbose"], f"stored report {text}")
        return snapshot.load(path)
    found = options.find_model(text, {**settings, **(_NOT_OF_A_FILE if path.is_file() else _OF_A_FILE)})
    options.say(settings["verbose"], f"{found.kind} model {found.name}")
    if isinstance(found, StoredModel):
        return stored_stats(found.layers, options.source_of(found), found.notes)
    return _built(found)


def _built(found: Any) -> Any:
    """A report of the values that a model has; nothing is run. Random weights are the same every time."""
    import msgspec
    import torch

    from bninspect.inspection import diff as comparison

    torch.manual_seed(0)
    report = comparison.of_module(found.build(), options.source_of(found))
    return options.with_remarks(msgspec.structs.replace(report, notes=found.notes), found)
