"""The opcodes that push a number, a text or bytes: how pickle protocols 0 to 5 spell them."""

from __future__ import annotations

import pickle
import struct
from typing import TYPE_CHECKING

from bninspect.files import limits
from bninspect.files.refused import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from bninspect.files.pickle.machine import Machine

_U16 = struct.Struct("<H").unpack_from
_I32 = struct.Struct("<i").unpack_from
_U32 = struct.Struct("<I").unpack_from
_F64 = struct.Struct(">d").unpack_from
_BOOLEANS = {b"00": False, b"01": True}


def _constant(value: object) -> Callable[[Machine], None]:
    def push(m: Machine) -> None:
        m.stack.append(value)

    return push


def _binint1(m: Machine) -> None:
    m.stack.append(m.data[m.pos])
    m.pos += 1


def _binint2(m: Machine) -> None:
    m.stack.append(_U16(m.data, m.pos)[0])
    m.pos += 2


def _binint(m: Machine) -> None:
    m.stack.append(_I32(m.data, m.pos)[0])
    m.pos += 4


def _digits(text: bytes) -> int:
    if len(text) > limits.PICKLE_DIGITS:
        raise Refused("its pickle has a number of thousands of digits")
    return int(text)


def _int(m: Machine) -> None:
    text = m.line()
    m.stack.append(_BOOLEANS[text] if text in _BOOLEANS else _digits(text))


def _long(m: Machine) -> None:
    m.stack.append(_digits(m.line().rstrip(b"L")))


def _long1(m: Machine) -> None:
    size = m.take(1)[0]
    m.stack.append(int.from_bytes(m.take(size), "little", signed=True))


def _long4(m: Machine) -> None:
    size = _U32(m.take(4))[0]
    m.stack.append(int.from_bytes(m.take(size), "little", signed=True))


def _float(m: Machine) -> None:
    m.stack.append(float(m.line()))


def _binfloat(m: Machine) -> None:
    m.stack.append(_F64(m.data, m.pos)[0])
    m.pos += 8


def _text(m: Machine, raw: bytes) -> None:
    m.stack.append(str(raw, "utf-8", "surrogatepass"))


def _binunicode(m: Machine) -> None:
    start = m.pos + 4
    end = m.pos = start + _U32(m.data, m.pos)[0]
    if end > len(m.data):
        raise IndexError
    m.stack.append(str(m.data[start:end], "utf-8", "surrogatepass"))


def _short_binunicode(m: Machine) -> None:
    size = m.take(1)[0]
    _text(m, m.take(size))


def _binunicode8(m: Machine) -> None:
    size = int.from_bytes(m.take(8), "little")
    _text(m, m.take(size))


def _unicode(m: Machine) -> None:
    m.stack.append(str(m.line(), "raw-unicode-escape"))


def _string(m: Machine) -> None:
    m.stack.append(str(m.line()[1:-1], "latin-1"))


def _sized_bytes(width: int, *, text: bool) -> Callable[[Machine], None]:
    """Byte strings with ``width`` bytes of length; those of Python 2 are texts, read as Latin-1."""

    def push(m: Machine) -> None:
        raw = m.take(int.from_bytes(m.take(width), "little"))
        m.stack.append(str(raw, "latin-1") if text else raw)

    return push


LITERALS: dict[bytes, Callable[[Machine], None]] = {
    pickle.NONE: _constant(None),
    pickle.NEWTRUE: _constant(value=True),
    pickle.NEWFALSE: _constant(value=False),
    pickle.BININT1: _binint1,
    pickle.BININT2: _binint2,
    pickle.BININT: _binint,
    pickle.INT: _int,
    pickle.LONG: _long,
    pickle.LONG1: _long1,
    pickle.LONG4: _long4,
    pickle.FLOAT: _float,
    pickle.BINFLOAT: _binfloat,
    pickle.BINUNICODE: _binunicode,
    pickle.SHORT_BINUNICODE: _short_binunicode,
    pickle.BINUNICODE8: _binunicode8,
    pickle.UNICODE: _unicode,
    pickle.STRING: _string,
    pickle.SHORT_BINSTRING: _sized_bytes(1, text=True),
    pickle.BINSTRING: _sized_bytes(4, text=True),
    pickle.SHORT_BINBYTES: _sized_bytes(1, text=False),
    pickle.BINBYTES: _sized_bytes(4, text=False),
    pickle.BINBYTES8: _sized_bytes(8, text=False),
    pickle.BYTEARRAY8: _sized_bytes(8, text=False),
}
