"""``bninspect merge``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bninspect.cli import _options as options
from bninspect.cli.stats import finish

if TYPE_CHECKING:
    from bninspect.inspection.snapshot import Snapshot

SECTION = "See what is there"
EPILOG = """\b
Examples:
  bninspect demo d/ && bninspect stats d/net.py:net --batch d/net.py:loader --parts run/ && bninspect merge run/
  bninspect merge run/ --partial
  bninspect merge run/ --channels --sort z --top 20
  bninspect merge run/ --snapshot bn.json --update
"""


@click.command(epilog=EPILOG, short_help="Put together what several processes measured.")
@click.argument("parts", metavar="DIR")
@click.option("--partial", is_flag=True, help="Report what there is, and say how much is missing.")
@click.option("--channels", is_flag=True, help="One row per channel.")
@click.option("--sort", metavar="COLUMN", help="Largest first, by a column of the csv format.")
@click.option("--top", type=click.IntRange(1), metavar="K", help="Only the first K rows.")
@options.output_options("bninspect.stats")
@options.snapshot_options("bninspect.stats")
def merge(parts: str, fmt: str, *, output: str | None, color: str, snapshot: Snapshot | None, **settings: Any) -> int:
    """Put together the parts that stats --parts wrote into DIR, and print the report of stats.

    The report is the same to the byte for any number of processes, any order and any restart. Parts that are missing,
    that overlap or that are of another model, other data or other settings are refused, and named.
    """
    import bninspect

    report = bninspect.merge(parts, partial=settings["partial"])
    return finish(report, fmt, output=output, color=color, snapshot=snapshot, settings=settings)
