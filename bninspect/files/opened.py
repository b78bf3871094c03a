"""A file opened once: regular files only, never waiting, read by place."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from bninspect.files.refused import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0)
_FLAGS |= getattr(os, "O_BINARY", 0)
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_REASONS = {
    errno.ENOENT: "there is no such file",
    errno.ENOTDIR: "there is no such file",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ELOOP: "its symbolic links lead round in a circle",
    errno.ENAMETOOLONG: "its name is longer than any file's",
    errno.ENXIO: "it is a socket or a device, and only regular files are read",
}


class Opened:
    """An open regular file; ``size`` is its length when it was opened, ``inflated`` what its deflated parts became."""

    def __init__(self, handle: int, size: int, origin: int = 0) -> None:
        self.handle = handle
        self.size = size
        self._origin = origin
        self.inflated = 0
        self._window = b""
        self._window_start = 0

    def read(self, start: int, count: int, ahead: int = 0) -> bytes:
        """Exactly ``count`` bytes from ``start``; up to ``ahead`` bytes are fetched for the reads that follow.

        Raises:
            Refused: the file has no such bytes, or lost them meanwhile.
        """
        begin = start - self._window_start
        if begin >= 0 and begin + count <= len(self._window):
            return self._window[begin : begin + count]
        if start < 0 or count < 0 or start + count > self.size:
            raise Refused("it points beyond its own end")
        fetched = self._fetch(start, min(max(count, ahead), self.size - start))
        if len(fetched) < count:
            raise Refused("it was cut short while it was read")
        if ahead:
            self._window, self._window_start = fetched, start
        return fetched[:count]

    def fill(self, start: int, buffer: memoryview) -> None:
        """Read as many bytes from ``start`` as ``buffer`` is long into it: what is long is not held twice.

        Raises:
            Refused: as for :meth:`read`.
        """
        if start < 0 or start + len(buffer) > self.size:
            raise Refused("it points beyond its own end")
        try:
            os.lseek(self.handle, self._origin + start, os.SEEK_SET)
            while buffer and (count := os.readv(self.handle, [buffer])):
                buffer = buffer[count:]
        except OSError as error:
            raise Refused(_reason(error)) from error
        if buffer:
            raise Refused("it was cut short while it was read")

    def within(self, start: int, size: int) -> Opened:
        """A run of its bytes as a file of its own."""
        return Opened(self.handle, size, self._origin + start)

    def _fetch(self, start: int, count: int) -> bytes:
        pieces = []
        try:
            os.lseek(self.handle, self._origin + start, os.SEEK_SET)
            while count > 0 and (piece := os.read(self.handle, count)):
                pieces.append(piece)
                count -= len(piece)
        except OSError as error:
            raise Refused(_reason(error)) from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@contextlib.contextmanager
def opened(path: str) -> Iterator[Opened]:
    """The regular file at ``path``, open for reading.

    Raises:
        Refused: there is none, or it may not be read.
    """
    try:
        handle = os.open(path, _FLAGS)
    except OSError as error:
        raise Refused(_reason(error)) from error
    except ValueError as error:  # a NUL, or characters that no file name can have
        raise Refused("no file can have such a name") from error
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise Refused(f"it is {_KINDS.get(stat.S_IFMT(found.st_mode), 'no file')}, and only regular files are read")
        yield Opened(handle, found.st_size)
    finally:
        os.close(handle)


def _reason(error: OSError) -> str:
    known = _REASONS.get(error.errno or 0)
    return known or (os.strerror(error.errno) if error.errno else "it cannot be read")
