"""``bninspect diff``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bninspect import _plugins
from bninspect.cli import _options as options
from bninspect.cli._output import emit

EPILOG = """\b
Examples:
  bninspect diff before.json after.json
  bninspect diff epoch1.pt epoch2.pt --tolerance strict
  bninspect diff rank0.safetensors rank1.safetensors --format markdown
  bninspect diff nets.py:model best.pt
"""


@click.command(epilog=EPILOG)
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
    sides = [_side(text, settings) for text in (a, b)]
    report = comparison.diff(*sides, tolerance=limits)
    emit(report, _plugins.formats(report.schema)[fmt], output=output, color=color)
    return 0 if report.equal else 1


def _side(text: str, settings: dict[str, Any]) -> Any:
    from bninspect import snapshot

    path = Path(text)
    if snapshot.is_stored_report(path):
        options.say(settings["verbose"], f"stored report {text}")
        return snapshot.load(path)
    weights = None if path.is_file() else settings["weights"]
    found = options.find_model(text, weights, () if path.is_file() else settings["model_args"])
    options.say(settings["verbose"], f"{found.kind} model {found.name}")
    return _stored_values(found)


def _stored_values(found: Any) -> Any:
    """A report of the values that a model or a file holds; nothing is run."""
    import msgspec

    from bninspect.inspection import diff as comparison

    source = options.source_of(found)
    if hasattr(found, "layers"):
        report = comparison.of_layers(found.layers, source)
    else:
        report = comparison.of_module(found.build(), source)
    return msgspec.structs.replace(report, notes=found.notes)
