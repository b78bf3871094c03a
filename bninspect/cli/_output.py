"""Where a report goes: standard output, or a file that is either old or new, never half."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bninspect.errors import BNInspectError
from bninspect.text import printable

if TYPE_CHECKING:
    from types import ModuleType


class ClosedPipeError(Exception):
    """The reader of standard output went away."""


def emit(report: Any, renderer: ModuleType, *, output: str | None, color: str) -> None:
    """Render a report and write it to ``output`` or to standard output."""
    if output is not None and output != "-":
        write_file(Path(output), renderer.render(report, color=False, width=None))
        return
    _write(renderer.render(report, color=wants_color(color, sys.stdout), width=terminal_width()))


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


def write_file(path: Path, text: str) -> None:
    """Write beside the target, flush to the disk, and put it in place at once; the old file is intact until then.

    Raises:
        BNInspectError: the folder does not exist or cannot be written, or the disk is full.
    """
    temporary: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise BNInspectError(f"{printable(str(path))} cannot be written: {error.strerror}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
