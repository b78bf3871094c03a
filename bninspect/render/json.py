"""The report itself, as JSON: what the Python function returns, and what a snapshot is."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bninspect.report import Report

SCHEMAS = ("bninspect.summary", "bninspect.stats")
_UNSAFE = re.compile(r"[^\x0a\x20-\x7e]")


def render(report: Report, *, color: bool, width: int | None) -> str:  # noqa: ARG001
    """Indented JSON; vectors become lists, and NaN and infinity null."""
    import msgspec

    try:
        text = msgspec.json.encode(report, enc_hook=_plain)
    except UnicodeEncodeError:  # a name with half a character in it
        text = msgspec.json.encode(_whole(msgspec.to_builtins(report, enc_hook=_plain)))
    return _UNSAFE.sub(_escape, msgspec.json.format(text, indent=2).decode()) + "\n"


def _escape(match: re.Match[str]) -> str:
    """A character that could steer a terminal, as JSON writes it; others stay."""
    char = match.group()
    if unicodedata.category(char)[0] not in "CZ":
        return char
    units = char.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def _whole(value: Any) -> Any:
    """The same with names that UTF-8 can hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {name: _whole(part) for name, part in value.items()}
    return [_whole(part) for part in value] if isinstance(value, (list, tuple)) else value


def _plain(value: Any) -> Any:
    import numpy as np

    if isinstance(value, np.ndarray):
        return value.tolist()
    raise NotImplementedError(f"a report holds no {type(value).__name__}")
