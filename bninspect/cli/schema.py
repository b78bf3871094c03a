"""``bninspect schema``."""

from __future__ import annotations

import click

SECTION = "To look up"
EPILOG = """\b
Examples:
  bninspect schema
  bninspect schema bninspect.stats
"""


@click.command(epilog=EPILOG, short_help="The JSON Schema of a report.")
@click.argument("name", required=False)
def schema(name: str | None) -> None:
    """The JSON Schema of a report; without NAME, the names that there are.

    A new field leaves schema_version as it is; one that is removed, renamed or means something else raises it.
    """
    import msgspec

    from bninspect import codec

    if name is None:
        click.echo("\n".join(known.rpartition(".")[2] for known in codec.kinds()))
        return
    text = msgspec.json.encode(codec.json_schema(name))
    click.echo(msgspec.json.format(text, indent=2).decode())
