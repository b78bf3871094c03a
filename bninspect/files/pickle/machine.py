"""A pickle machine that imports nothing and calls nothing: opcodes in, descriptions of objects out.

Memory stays near what the result needs: what no opcode can ask for again is not kept in the memo.
"""

from __future__ import annotations

import pickle
import re
from array import array
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bninspect.files.tensors import Storage

_TEXT_GET = re.compile(rb"g(\d{1,12})\n")
_LISTED = 1 << 16
_BLOCK = 1 << 20


class Machine:
    """Reads one pickle of ``data`` from ``start``; then ``pos`` is behind it, ``storages`` are those that it names."""

    __slots__ = (
        "awaited", "data", "heads", "keep", "kept", "marks", "memo", "memoized", "pos", "stack", "storages", "vectors",
    )  # fmt: skip

    def __init__(self, data: bytes, start: int = 0, before: Machine | None = None) -> None:
        """A machine for one pickle; ``before`` read the pickle before it in the same ``data``."""
        self.data = data
        self.pos = start
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.memoized = 0
        self.keep: bytes = before.keep if before else _fetched(data, start)
        self.kept: frozenset[bytes] | None = before.kept if before else _indices(self.keep)
        self.awaited: list[int] | None = before.awaited if before else _awaited(data, start, self.keep)
        self.storages: dict[int | str, Storage] = {}
        self.vectors: dict[bytes | None, tuple[int, ...]] = {None: ()}
        self.heads: dict[tuple[bytes | None, ...], tuple[str | None, int | str | None]] = {}

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
            self.heads.clear()


def _fetched(data: bytes, start: int) -> bytes:
    """One byte per memo index: whether any bytes of the pickle could be an opcode that fetches it.

    Bytes that merely look like such an opcode are counted too, so nothing that is asked for is ever missing.
    """
    binary = data[start : start + 1] == b"\x80" and data[start + 1 : start + 2] in (b"\x02", b"\x03")
    size = 256 + (len(data) - start) // (6 if binary else 2)  # the fewest bytes that make and number one object
    keep = np.zeros(size, np.bool_)
    for found in _TEXT_GET.finditer(data, start):
        keep[min(int(found[1]), size - 1)] = True
    for _, raw in _blocks(data, start):
        short = np.flatnonzero(raw[:-1] == pickle.BINGET[0])
        keep[raw[short + 1]] = True
        _, index = _indexed(raw, pickle.LONG_BINGET)
        keep[index[index < size]] = True
    return keep.tobytes()


def _awaited(data: bytes, start: int, keep: bytes) -> list[int] | None:
    """Where bytes look like a LONG_BINPUT of what may be fetched again: a shortcut must not pass over these.

    The last comes first, behind all of them the end of the data; ``None`` where they are too many to list.
    """
    kept = np.frombuffer(keep, np.bool_)
    places = array("q")
    for begin, raw in _blocks(data, start):
        at, index = _indexed(raw, pickle.LONG_BINPUT)
        known = index < len(kept)
        places.frombytes((begin + at[known][kept[index[known]]]).tobytes())
        if len(places) > _LISTED:
            return None
    return [len(data), *reversed(places)]


def _blocks(data: bytes, start: int) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """The bytes a piece at a time, each with the four that follow it."""
    for begin in range(start, len(data), _BLOCK):
        yield begin, np.frombuffer(data, np.uint8, min(_BLOCK + 4, len(data) - begin), begin)


def _indexed(raw: npt.NDArray[np.uint8], opcode: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where ``opcode`` stands, and the four bytes behind it as a number."""
    at = np.flatnonzero(raw[:-4] == opcode[0])
    index = np.zeros(len(at), np.int64)
    for byte in range(4):
        index += raw[at + 1 + byte].astype(np.int64) << (8 * byte)
    return at, index


def _indices(keep: bytes) -> frozenset[bytes] | None:
    """The memo indices that are kept, as LONG_BINPUT spells them; ``None`` where they are too many to list."""
    kept = np.flatnonzero(np.frombuffer(keep, np.bool_))
    return frozenset(index.to_bytes(4, "little") for index in kept.tolist()) if len(kept) <= _LISTED else None
