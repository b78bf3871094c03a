"""Write a file whole or not at all: beside the target, flushed to the disk, then put in its place at once."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from typing import TYPE_CHECKING

from bninspect.errors import BNInspectError
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def write(path: Path, content: str | bytes | Iterable[bytes]) -> None:
    """Replace ``path`` by ``content``, which may come in pieces; until it has reached the disk, the old file is intact.

    A device or a pipe (``/dev/stdout``) is written to as it is. What a killed run left beside the target is removed.

    Raises:
        BNInspectError: the folder does not exist or cannot be written, or the disk is full.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    pieces = [data] if isinstance(data, bytes) else data
    try:
        if _is_special(path):
            path.write_bytes(b"".join(pieces))
        else:
            _replace(path, pieces)
    except OSError as error:
        raise BNInspectError(f"{printable(str(path))} cannot be written: {error.strerror or error}") from error


def move(old: Path, new: Path) -> None:
    """Give a written file its final name, durably.

    Raises:
        BNInspectError: the folder cannot be written.
    """
    try:
        old.replace(new)
        _sync(new.parent)
    except OSError as error:
        raise BNInspectError(f"{printable(str(new))} cannot be written: {error.strerror}") from error


def _is_special(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(mode)


def _replace(path: Path, pieces: Iterable[bytes]) -> None:
    _sweep(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{_prefix(path)}{os.getpid()}-", suffix=".tmp")
    temporary = path.with_name(os.path.basename(name))  # noqa: PTH119  # a name, not a path to resolve
    try:
        with open(handle, "wb") as file:  # noqa: PTH123  # an open descriptor has no path
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
        temporary.replace(path)
        _sync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _prefix(path: Path) -> str:
    return f".{path.name[:100]}."


def _sweep(path: Path) -> None:
    """Remove what runs that are no more left of this target."""
    prefix = _prefix(path)
    with contextlib.suppress(OSError):
        for left in list(path.parent.iterdir()):
            if left.name.startswith(prefix) and left.name.endswith(".tmp"):
                pid = left.name[len(prefix) :].partition("-")[0]
                if pid.isdecimal() and not _runs(int(pid)):
                    left.unlink()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _sync(folder: Path) -> None:
    """Make a rename last; some systems cannot open a folder, and need not."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
