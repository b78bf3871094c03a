"""Warnings of a watch, which point at the line of the loop, and not at one of ours or of torch's."""

from __future__ import annotations

import sys
import warnings

from bninspect.errors import WatchWarning

_BETWEEN = {"bninspect", "torch", "contextlib"}  # the loop and this


def warn(text: str) -> None:
    """Warn whoever called into these packages."""
    frame, level = sys._getframe(), 1  # noqa: SLF001  # warnings looks for its lines by the same
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, WatchWarning, stacklevel=level)
