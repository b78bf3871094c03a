"""A file of lines that is written while a run goes on: every full line in it is good, whenever the process dies."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

import msgspec

from bninspect.errors import InputError, SourceError
from bninspect.inspection.watch.locks import lock_of
from bninspect.inspection.watch.reading import last_line
from bninspect.text import printable

if TYPE_CHECKING:
    from pathlib import Path

    from bninspect.report import WatchLine

_TRIES, _PAUSE = 10, 0.05  # a reader looks for a moment whether a file is in use


class Journal:
    """Lines that are added to ``path``, each at once; it belongs to this process as long as it is open.

    Args:
        path: of the file, which must not exist.
        append: or which may be that of a run that ended, to go on with.

    Raises:
        InputError: it exists, or cannot be gone on with.
        OSError: it cannot be made.
    """

    def __init__(self, path: Path, *, append: bool) -> None:
        self.path, self.last_step = path, 0
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | (0 if append else os.O_EXCL)
        try:
            self._file = os.open(path, flags, 0o666)
        except FileExistsError as error:
            raise InputError(
                f"{printable(str(path))} exists, and two runs never share a file: give another name, or append=True to "
                "go on with that run"
            ) from error
        try:
            self._own()
            self._end = self._resume() if append else 0
        except BaseException:
            os.close(self._file)
            raise

    def write(self, line: WatchLine) -> None:
        """Add a line.

        Raises:
            OSError: it could not be written; nothing of it is left in the file.
        """
        data = memoryview(msgspec.json.encode(line) + b"\n")
        done = 0
        try:
            while done < len(data):
                done += os.write(self._file, data[done:])
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end)
            raise
        self._end += done

    def close(self) -> None:
        """Give the file up."""
        os.close(self._file)

    def _own(self) -> None:
        lock = lock_of()
        for left in reversed(range(_TRIES)):
            if lock is None or lock(self._file, exclusive=True):
                return
            if left:
                time.sleep(_PAUSE)
        raise InputError(f"{printable(str(self.path))} is being written by another run: give another name")

    def _resume(self) -> int:
        """Where to go on: behind the last full line; what a killed run left of another is cut off."""
        try:
            self.last_step, end = last_line(self.path)
        except SourceError as error:
            raise InputError(f"append=True goes on with a run: {error}") from error
        os.ftruncate(self._file, end)
        return end
