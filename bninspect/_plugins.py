"""The one place that knows how formats and sources are found: a file in their folder is all it takes."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType


@cache
def plugins(folder: str) -> dict[str, ModuleType]:
    """Modules of the package ``bninspect.<folder>`` by name, sorted; names with a leading underscore are helpers."""
    package = importlib.import_module(f"bninspect.{folder}")
    names = sorted(found.name for found in pkgutil.iter_modules(package.__path__))
    return {name: importlib.import_module(f"bninspect.{folder}.{name}") for name in names if not name.startswith("_")}


def choose(text: str, sources: dict[str, ModuleType]) -> tuple[ModuleType, str] | None:
    """The source that reads ``[scheme:]value``, and the value: by its scheme, or the first that accepts the text."""
    schemes = {source.SCHEME: source for source in sources.values()}
    scheme, colon, rest = text.partition(":")
    if colon and scheme in schemes:
        return schemes[scheme], rest
    return next(((source, text) for source in sources.values() if source.accepts(text)), None)


def formats(schema: str) -> dict[str, ModuleType]:
    """Renderers that can write a report of this ``schema``, by their ``--format`` name."""
    return {name: module for name, module in plugins("render").items() if schema in module.SCHEMAS}
