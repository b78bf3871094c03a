"""A pickle machine that imports nothing and calls nothing: opcodes in, descriptions of objects out.

Memory stays near what the result needs: what no opcode can ask for again is not kept in the memo.
"""

from __future__ import annotations

import re
import struct
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from bninspect.models._files import limits
from bninspect.models._files.nodes import Refused
from bninspect.models._files.opcodes import TABLE, Stop

if TYPE_CHECKING:
    from bninspect.models._files.nodes import Storage

_TEXT_GET = re.compile(rb"g(\d{1,12})\n")
_BETWEEN_CHECKS = 1 << 15
_LISTED = 1 << 16
_MALFORMED = (IndexError, KeyError, ValueError, struct.error)


class Short(Exception):  # noqa: N818 - a signal: the caller may have more bytes
    """The pickle goes on after the bytes at hand."""


class Machine:
    """Reads one pickle of ``data`` from ``start``; then ``pos`` is behind it, ``storages`` are those that it names."""

    __slots__ = ("data", "keep", "kept", "marks", "memo", "memoized", "pos", "stack", "storages", "vectors")

    def __init__(self, data: bytes, start: int = 0) -> None:
        self.data = data
        self.pos = start
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.memoized = 0
        self.keep = _fetched(data, start)
        self.kept = _indices(self.keep)
        self.storages: dict[str, Storage] = {}
        self.vectors: dict[bytes | None, tuple[int, ...]] = {}

    def run(self) -> Any:
        """The object that the pickle describes.

        Raises:
            Refused: it is malformed, or larger than any honest one.
            Short: it ends before its STOP.
        """
        try:
            self._steps()
        except Stop:
            return self.stack[-1] if self.stack else None
        except _MALFORMED as error:
            if self.pos >= len(self.data):
                raise Short from error
            raise Refused(f"its pickle is damaged at byte {self.pos}") from error
        raise Refused(f"its pickle has more than {limits.PICKLE_STEPS:,} steps")

    def _steps(self) -> None:
        data, table = self.data, TABLE
        blocks = sys.getallocatedblocks()
        for _ in range(limits.PICKLE_STEPS // _BETWEEN_CHECKS):
            for _ in range(_BETWEEN_CHECKS):
                opcode = data[self.pos]
                self.pos += 1
                table[opcode](self)
            if sys.getallocatedblocks() - blocks > limits.PICKLE_OBJECTS:
                raise Refused(f"its pickle makes more than {limits.PICKLE_OBJECTS:,} objects")

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        end = self.pos + count
        if end > len(self.data):
            self.pos = len(self.data)
            raise IndexError
        piece = self.data[self.pos : end]
        self.pos = end
        return piece

    def line(self) -> bytes:
        """The bytes up to the next line break, which is passed over."""
        end = self.data.find(b"\n", self.pos)
        if end < 0:
            self.pos = len(self.data)
            raise IndexError
        piece = self.data[self.pos : end]
        self.pos = end + 1
        return piece

    def marked(self) -> list[Any]:
        """What was pushed since the last mark, taken off the stack."""
        mark = self.marks.pop()
        pushed = self.stack[mark:]
        del self.stack[mark:]
        return pushed

    def remember(self, index: int) -> None:
        """Keep the top of the stack under ``index``, if an opcode might ask for it."""
        top = self.stack[-1]
        self.memoized += 1
        if index < len(self.keep) and self.keep[index]:
            self.memo[index] = top


def _fetched(data: bytes, start: int) -> bytes:
    """One byte per memo index: whether any bytes of the pickle could be an opcode that fetches it.

    Bytes that merely look like such an opcode are counted too, so nothing that is asked for is ever missing.
    """
    binary = data[start : start + 1] == b"\x80" and data[start + 1 : start + 2] in (b"\x02", b"\x03")
    size = 256 + (len(data) - start) // (6 if binary else 2)  # the fewest bytes that make and number one object
    keep = np.zeros(size, np.bool_)
    for found in _TEXT_GET.finditer(data, start):
        keep[min(int(found[1]), size - 1)] = True
    raw = np.frombuffer(data, np.uint8)[start:]
    short = np.flatnonzero(raw[:-1] == ord("h"))
    keep[raw[short + 1]] = True
    long = np.flatnonzero(raw[:-4] == ord("j"))
    index = np.zeros(len(long), np.int64)
    for byte in range(4):
        index += raw[long + 1 + byte].astype(np.int64) << (8 * byte)
    keep[index[index < size]] = True
    return keep.tobytes()


def _indices(keep: bytes) -> frozenset[bytes] | None:
    """The memo indices that are kept, as LONG_BINPUT spells them; ``None`` where they are too many to list."""
    kept = np.flatnonzero(np.frombuffer(keep, np.bool_)).tolist()
    return frozenset(index.to_bytes(4, "little") for index in kept) if len(kept) <= _LISTED else None
