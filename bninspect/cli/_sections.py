"""``bninspect --help``: commands by what one wants to do. A command's file says its section, and is found by it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bninspect import _plugins

if TYPE_CHECKING:
    from types import ModuleType

SECTIONS = (
    "To begin with",
    "See what is there",
    "Find what is wrong, and put it right",
    "Compare, and show",
    "While a model trains",
    "To look up",
)
_LIMIT = 70  # characters of a line of help


class Sections(click.Group):
    """A group whose commands are those of the files of this folder that have a ``SECTION``."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._modules: dict[str, ModuleType] = {}
        for name, module in _plugins.plugins("cli", "SECTION").items():
            self._modules[name] = module
            self.add_command(getattr(module, name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # click's
        """Write the sections in their order, each with its commands by name."""
        names = max(map(len, self.commands))
        for section in SECTIONS:
            rows = [
                (name.ljust(names), command.get_short_help_str(_LIMIT))
                for name, command in sorted(self.commands.items())
                if section == self._modules[name].SECTION
            ]
            if rows:
                with formatter.section(section):
                    formatter.write_dl(rows)
