"""``bninspect report``."""

from __future__ import annotations

from pathlib import Path

import click

from bninspect.cli._output import emit_text
from bninspect.errors import InputError
from bninspect.text import printable

SECTION = "Compare, and show"
EPILOG = """\b
Examples:
  bninspect demo demo/ && bninspect report demo/run.jsonl -o run.html
  bninspect stats resnet18 --batch batch.pt --channels --format json -o bn.json
  bninspect report bn.json -o page.html
  bninspect report before.json after.json -o both.html
  bninspect report run.jsonl -o run.html
"""


@click.command(epilog=EPILOG, short_help="A page of pictures and tables, for a browser.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("-o", "--output", required=True, metavar="PAGE", help="Write the page to a file, whole or not at all.")
def report(files: tuple[str, ...], output: str) -> int:
    """A page of pictures and tables of stored reports, which needs no network.

    Each FILE is what --format json or --snapshot wrote, or the record of a training run; several of one kind stand side
    by side. The page needs the extra of pip install 'bninspect[html]'.
    """
    from bninspect.inspection.snapshot import file as stored
    from bninspect.inspection.watch.course import course, is_run
    from bninspect.render import html

    reports = [course(Path(name)) if is_run(Path(name)) else stored.load(Path(name)) for name in files]
    kinds = dict.fromkeys(found.schema.rpartition(".")[2] for found in reports)
    if len(kinds) > 1:
        found = ", ".join(
            f"{printable(name)} of {one.schema.rpartition('.')[2]}" for name, one in zip(files, reports, strict=True)
        )
        raise InputError(f"a page has reports of one kind, and these are {found}: give each kind a page of its own")
    emit_text(html.page(reports, [printable(name) for name in files] if len(files) > 1 else ()), output)
    return 0
