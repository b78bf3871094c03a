"""The part of a report's header that is known without torch."""

from __future__ import annotations

import platform

from bninspect import __version__
from bninspect.report import Tool


def tool_without_torch() -> Tool:
    """Our own version and Python's."""
    return Tool(bninspect=__version__, python=platform.python_version())
