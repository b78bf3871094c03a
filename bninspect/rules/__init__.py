"""What may be wrong with BatchNorm layers: one file per family of rules, found by their files."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from bninspect._plugins import plugins
from bninspect.rules._rule import Rule

if TYPE_CHECKING:
    from collections.abc import Mapping


@cache
def catalogue() -> Mapping[str, Rule]:
    """Every rule by its code, sorted."""
    found = [
        value for module in plugins("rules").values() for value in vars(module).values() if isinstance(value, Rule)
    ]
    return {rule.code: rule for rule in sorted(found, key=lambda rule: rule.code)}
