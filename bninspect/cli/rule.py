"""``bninspect rule``."""

from __future__ import annotations

import difflib
import textwrap
from typing import TYPE_CHECKING

import click

from bninspect.cli._output import terminal_width
from bninspect.errors import InputError

if TYPE_CHECKING:
    from bninspect.rules._rule import Rule

_UNBOUNDED = 10_000


SECTION = "To look up"
EPILOG = """\b
Examples:
  bninspect rule BN203
  bninspect rule BN2
"""


@click.command(epilog=EPILOG, short_help="The rules of check and of bninspect.watch, explained.")
@click.argument("code", required=False)
def rule(code: str | None) -> None:
    """List the rules of `check` and of `bninspect.watch`, or explain the one that CODE names.

    CODE is BN203, a name such as frozen-affine-live-statistics, or a beginning such as BN2, which lists a family.
    """
    from bninspect.rules import catalogue

    rules = list(catalogue().values())
    found = _matching(rules, code) if code else rules
    width = terminal_width() or _UNBOUNDED
    if len(found) == 1:
        click.echo(_page(found[0], width))
    else:
        click.echo("\n".join(_line(one, rules, width) for one in found))


def _matching(rules: list[Rule], code: str) -> list[Rule]:
    """The rule of that code or name, or the family.

    Raises:
        InputError: there is none.
    """
    found = [one for one in rules if one.code.startswith(code.upper()) or one.name == code.lower()]
    if not found:
        known = [word for one in rules for word in (one.code, one.name)]
        near = difflib.get_close_matches(code, known, 1, 0.5) or difflib.get_close_matches(code.upper(), known, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else "`bninspect rule` lists them"
        raise InputError(f"there is no rule {code!r}: {hint}")
    return found


def _line(one: Rule, rules: list[Rule], width: int) -> str:
    """One line, whose title is wrapped beside the name, or below it where there is too little room."""
    names = max(len(other.name) for other in rules)
    head = f"{one.code}  {one.severity:<7}  {one.name:<{names}}  "
    indent = len(head) if len(head) + 40 < width else len(one.code) + 2
    title = textwrap.fill(one.title, width, initial_indent=" " * indent, subsequent_indent=" " * indent)
    return head + title[indent:] if indent == len(head) else f"{head.rstrip()}\n{title}"


def _page(one: Rule, width: int) -> str:
    paragraphs = [f"{one.code} {one.name} ({one.severity} at most)", *one.page.split("\n\n")]
    thresholds = ", ".join(f"{name} = {value:g}" for name, value in one.thresholds.items())
    paragraphs += [f"Defaults: {thresholds}"] if thresholds else []
    return "\n\n".join(textwrap.fill(" ".join(part.split()), min(width, 100)) for part in paragraphs)
