"""Whether a process has a file open to write: it holds a lock, which the system takes back when the process dies."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def in_use(path: Path) -> bool | None:
    """Whether a process has the file open to write, as it has while it lives; None where that cannot be told."""
    lock = lock_of()
    if lock is None:
        return None
    file = os.open(path, os.O_RDONLY)
    try:
        return not lock(file, exclusive=False)
    except OSError:
        return None
    finally:
        os.close(file)


def lock_of() -> Callable[..., bool] | None:
    """A function that takes the lock of an open file if nobody has it; None on systems without."""
    try:
        import fcntl
    except ImportError:
        return None

    def lock(file: int, *, exclusive: bool) -> bool:
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    return lock
