"""``bninspect watch``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bninspect import _plugins
from bninspect.cli import _options as options
from bninspect.cli._output import ascii_only, emit
from bninspect.errors import SourceError
from bninspect.text import printable

if TYPE_CHECKING:
    from bninspect.inspection.watch.reading import Reading

_PERIOD = 0.5  # seconds between two looks at the file

SECTION = "While a model trains"
EPILOG = """\b
Examples:
  bninspect demo demo/ && bninspect watch demo/run.jsonl
  bninspect watch run.jsonl
  bninspect watch run.jsonl --once --format json
"""


@click.command(epilog=EPILOG, short_help="Follow a training run that bninspect.watch records.")
@click.argument("run", metavar="RUN.jsonl")
@click.option("--once", is_flag=True, help="Show where the run stands, and end.")
@click.option("--exit-zero", is_flag=True, help="Exit 0 whatever is found.")
@options.output_options("bninspect.watch")
def watch(run: str, fmt: str, *, once: bool, exit_zero: bool, output: str | None, color: str, **_: Any) -> int:
    """Follow a training run that bninspect.watch records, from another terminal.

    Layers are shown with the worst first, alarms below. When the run has ended, or its process is gone, its last state
    is printed. Exit code 1 means that there was an alarm of an error or a warning.
    """
    from bninspect.inspection.watch.reading import Reading

    path = Path(run)
    if not path.is_file():
        if path.exists():
            raise SourceError(f"{printable(run)} is no regular file: give the one that bninspect.watch writes")
        raise SourceError(f"there is no file {printable(run)}: bninspect.watch(..., to={printable(run)!r}) makes it")
    reading = Reading(path)
    if not once:
        _follow(reading)
    reading.more()
    report = reading.report()
    emit(report, _plugins.formats(report.schema)[fmt], output=output, color=color)
    return int(not exit_zero and any(alarm.severity != "info" for alarm in report.alarms))


def _follow(reading: Reading) -> None:
    """Read on until nothing will follow; on a terminal, show the state meanwhile."""
    from rich.console import Console, Group
    from rich.live import Live

    from bninspect.render._watch import live
    from bninspect.render.table import parts

    console = Console(stderr=True, highlight=False, markup=False)
    terminal, plain = sys.stderr.isatty(), ascii_only(sys.stderr)  # asked first: Live puts a proxy there
    with Live(console=console, auto_refresh=False, transient=True, vertical_overflow="ellipsis") as screen:
        ended = False
        while not ended:
            ended = reading.ended
            if reading.more() and terminal:
                shown = live(reading.report(), console.height)
                drawn = parts(shown, console.width, ascii_only=plain)
                screen.update(Group(*drawn), refresh=True)
            if not ended:
                time.sleep(_PERIOD)
