"""``bninspect demo``."""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from pathlib import Path

import click

SECTION = "To begin with"
EPILOG = """\b
Examples:
  bninspect demo
  bninspect demo demo/
"""


@click.command(epilog=EPILOG, short_help="A small net with a fault built in, and what finds it.")
@click.argument("folder", metavar="[DIR]", required=False)
def demo(folder: str | None) -> None:
    """Train a small network in seconds, with a fault built in, and let `check` find it.

    With DIR its files stay there, to try the other commands on: net.py, which has a network and images; best.pt, what
    was trained; run.jsonl, the record of the training.
    """
    if folder is not None:
        _show(Path(folder), kept=True)
        return
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):
        _show(Path("demo"), kept=False)


def _show(folder: Path, *, kept: bool) -> None:
    from bninspect.cli import run
    from bninspect.demo import NUM_IMAGES, make, prepare

    prepare(folder)
    click.echo(f"A small network is trained on {NUM_IMAGES:,} made-up images ...", err=True)
    found = make(folder)
    right = f"{found.by_batch:.0%} of new images in train mode, and about {found.by_running:.0%} in eval mode"
    click.echo(f"It is right about {right}. Why?\n")
    click.echo(f"$ bninspect check {_arguments(folder)}\n")
    run(["check", *shlex.split(_arguments(folder))])
    if not kept:
        click.echo(f"\nTo go on, keep its files:\n\n$ bninspect demo {folder}/")
    click.echo(f"\nPut it right, and see the accuracy:\n\n$ bninspect recalibrate {_arguments(folder)}")
    click.echo(
        f"\nWhat was seen while it trained:\n\n$ bninspect watch {shlex.quote(str(folder / 'run.jsonl'))} --once"
    )


def _arguments(folder: Path) -> str:
    """Those by which other commands find the network, what was trained, and images."""
    code = folder / "net.py"
    return shlex.join([f"{code}:net", "--checkpoint", str(folder / "best.pt"), "--batch", f"{code}:loader"])
