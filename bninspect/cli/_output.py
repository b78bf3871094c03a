"""Where a report goes: standard output, or a file that is either old or new, never half."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bninspect.errors import BNInspectError
from bninspect.text import printable
from bninspect.writing import write

if TYPE_CHECKING:
    from types import ModuleType

    from bninspect.inspection.snapshot import Snapshot


class ClosedPipeError(Exception):
    """The reader of standard output went away."""


def emit(report: Any, renderer: ModuleType, *, output: str | None, color: str) -> None:
    """Render a report and write it to ``output`` or to standard output."""
    if _is_file(output):
        emit_text(renderer.render(report, color=False, width=None), output)
    else:
        drawn = _drawer(renderer, sys.stdout)
        emit_text(drawn(report, color=wants_color(color, sys.stdout), width=terminal_width()), output)


def _drawer(renderer: ModuleType, stream: Any) -> Any:
    """How a format writes for a stream: one that draws lines has another way where the encoding has none."""
    return getattr(renderer, "render_ascii", renderer.render) if ascii_only(stream) else renderer.render


def ascii_only(stream: Any) -> bool:
    """Whether the encoding of a stream has no lines to draw tables with."""
    try:
        "─…".encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return True
    return False


def shows_channels(renderer: ModuleType) -> bool:
    """Whether a format shows the channels of each layer without being asked to."""
    return getattr(renderer, "SHOWS_CHANNELS", False)


def lean(report: Any, renderer: ModuleType) -> Any:
    """The report without its channels, but for a page, which shows those of each layer."""
    import msgspec

    if shows_channels(renderer):
        return report
    layers = tuple(msgspec.structs.replace(layer, channels=None) for layer in report.layers)
    return msgspec.structs.replace(report, layers=layers)


def emit_text(text: str, output: str | None) -> None:
    """Write what is rendered to ``output`` or to standard output."""
    if output is not None and _is_file(output):
        write(Path(output), text)
    else:
        _write(text)


def _is_file(output: str | None) -> bool:
    return output is not None and output != "-"


def conclude(
    report: Any, snapshot: Snapshot, renderer: ModuleType, *, output: str | None, color: str, vectors: bool
) -> int:
    """Hold a report against its snapshot, write what differs, and give the exit code: 1 where anything does."""
    outcome = snapshot.settle(report, vectors=vectors)
    if outcome.report is not None:
        emit(outcome.report, renderer, output=output, color=color)
    if snapshot.update:
        state = "was written" if outcome.written else "was left as it is: nothing differs beyond the tolerance"
        click.echo(f"{printable(str(snapshot.path))} {state}", err=True)
        return 0
    return 0 if outcome.report is None or outcome.report.equal else 1


def wants_color(color: str, stream: Any) -> bool:
    """``--color``, then NO_COLOR, then FORCE_COLOR, then whether the stream is a terminal."""
    if color != "auto":
        return color == "always"
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def terminal_width() -> int | None:
    """The width to fill, or ``None`` where there is no terminal and the text may be as wide as it is."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit():
        return max(40, shutil.get_terminal_size().columns)
    return None


def _write(text: str) -> None:
    with contextlib.suppress(AttributeError):
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError as error:
        silence()
        raise ClosedPipeError from error
    except OSError as error:
        silence()
        raise BNInspectError(f"standard output cannot be written: {error.strerror}") from error


def silence() -> None:
    """Let Python's own flush at exit go nowhere, instead of complaining about a pipe that is closed."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
