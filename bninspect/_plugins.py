"""The one place that knows how formats and sources are found: a file in their folder is all it takes."""

from __future__ import annotations

import importlib
import pkgutil
import re
from functools import cache
from typing import TYPE_CHECKING

from bninspect.errors import SourceError
from bninspect.text import printable

if TYPE_CHECKING:
    from types import ModuleType

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@cache
def plugins(folder: str, marker: str = "") -> dict[str, ModuleType]:
    """Modules of the package ``bninspect.<folder>`` by name, sorted.

    Args:
        folder: of the package.
        marker: a name that each plugin of the folder has; a module without it is a helper, as is any whose name begins
            with an underscore.
    """
    package = importlib.import_module(f"bninspect.{folder}")
    names = sorted(found.name for found in pkgutil.iter_modules(package.__path__) if not found.name.startswith("_"))
    modules = {name: importlib.import_module(f"bninspect.{folder}.{name}") for name in names}
    return {name: module for name, module in modules.items() if not marker or hasattr(module, marker)}


def choose(text: str, sources: dict[str, ModuleType]) -> tuple[ModuleType, str] | None:
    """The source that reads ``[scheme:]value``, and the value: by its scheme, or the first that accepts the text.

    Raises:
        SourceError: it is an address.
    """
    schemes = {source.SCHEME: source for source in sources.values()}
    scheme, colon, rest = text.partition(":")
    if colon and scheme in schemes:
        return schemes[scheme], rest
    refuse_address(text)
    return next(((source, text) for source in sources.values() if source.accepts(text)), None)


def refuse_address(text: str) -> None:
    """What lies on another machine is not fetched.

    Raises:
        SourceError: ``text`` is an address such as ``https://...`` or ``s3://...``.
    """
    if _ADDRESS.match(text):
        raise SourceError(
            f"{printable(text)} is an address, and none is fetched: download the file first, and give its path "
            "(a model of the Hugging Face hub is hf-hub:ORG/NAME)"
        )


def formats(schema: str) -> dict[str, ModuleType]:
    """Renderers that can write a report of this ``schema``, by their ``--format`` name."""
    return {name: module for name, module in plugins("render", "SCHEMAS").items() if schema in module.SCHEMAS}
