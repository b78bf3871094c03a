"""``bninspect rule``."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import click

from bninspect.errors import InputError

if TYPE_CHECKING:
    from bninspect.rules._rule import Rule


@click.command()
@click.argument("code", required=False)
def rule(code: str | None) -> None:
    """List the rules of `check`, or explain the one that CODE names.

    CODE is BN203, a name such as frozen-affine-live-statistics, or a beginning such as BN2, which lists a family.
    """
    from bninspect.rules import catalogue

    rules = list(catalogue().values())
    found = _matching(rules, code) if code else rules
    if len(found) == 1:
        click.echo(_page(found[0]))
    else:
        click.echo("\n".join(_line(one, rules) for one in found))


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


def _line(one: Rule, rules: list[Rule]) -> str:
    width = max(len(other.name) for other in rules)
    return f"{one.code}  {one.severity:<7}  {one.name:<{width}}  {one.title}"


def _page(one: Rule) -> str:
    thresholds = ", ".join(f"{name} = {value:g}" for name, value in one.thresholds.items())
    lines = [f"{one.code} {one.name} ({one.severity} at most)", "", one.page]
    return "\n".join([*lines, "", f"Defaults: {thresholds}"] if thresholds else lines)
