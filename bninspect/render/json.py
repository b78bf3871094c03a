"""The report itself, as JSON: what the Python function returns, and what a snapshot is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bninspect.report import Report

SCHEMAS = ("bninspect.summary", "bninspect.stats")


def render(report: Report, *, color: bool, width: int | None) -> str:  # noqa: ARG001
    """Indented JSON; vectors become lists, and NaN and infinity null."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode(report, enc_hook=_plain), indent=2).decode() + "\n"


def _plain(value: Any) -> Any:
    import numpy as np

    if isinstance(value, np.ndarray):
        return value.tolist()
    raise NotImplementedError(f"a report holds no {type(value).__name__}")
