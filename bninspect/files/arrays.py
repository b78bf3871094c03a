"""numpy's arrays in files: ``.npy``, the records of ``.npz``, and pickled ones; numbers only, and read when wanted."""

from __future__ import annotations

import io
import math
import re
import warnings
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from bninspect.files import limits
from bninspect.files.archive import Archive, Record, whole
from bninspect.files.dtypes import SIZES
from bninspect.files.pickle.nodes import Call
from bninspect.files.refused import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from bninspect.files.opened import Opened
    from bninspect.report import Vector

NPY_MAGIC = b"\x93NUMPY"
_VERSIONS = (b"\1\0", b"\2\0")
_HEAD = 12_000  # bytes: numpy itself takes no longer header
_NUMBER = re.compile(r"[<>=|]?(?:b1|[fiu][1248]|c8|c16|\?)")
_RECONSTRUCT = re.compile(r"numpy\.(?:_core|core)\.multiarray\._reconstruct")
_SCALAR = re.compile(r"numpy\.(?:_core|core)\.multiarray\.scalar")
_FROM_BUFFER = re.compile(r"numpy\.(?:_core|core)\.numeric\._frombuffer")


class Held:
    """A tensor of a file: its type and shape are known, its values are read when they are wanted.

    ``odd`` says what it is where it holds no plain values.
    """

    def __init__(
        self, dtype: str, shape: tuple[int, ...], read: Callable[[], Vector] | None, *, odd: str | None = None
    ) -> None:
        self.dtype = dtype
        self.shape = shape
        self.odd = odd
        self._read = read

    def is_floating_point(self) -> bool:
        """As of a tensor of torch."""
        return self.dtype.startswith(("float", "bfloat"))

    def dim(self) -> int:
        """As of a tensor of torch."""
        return len(self.shape)

    def values(self) -> Vector:
        """The values, in this machine's byte order.

        Raises:
            Refused: it has none, or they are not as the file says.
        """
        if self.odd is not None or self._read is None:
            raise Refused(f"it holds {self.odd}: save a dense tensor")
        return self._read()


def read_npy(file: Opened) -> Held:
    """The array of a ``.npy`` file."""
    return _stored(file.read(0, min(file.size, _HEAD)), file.size, lambda: file.read(0, file.size))


def read_npz(archive: Archive) -> dict[str, Held]:
    """The arrays of a ``.npz`` file, by name."""
    names = sorted(archive.names, key=archive.names.__getitem__)
    records = archive.records(np.array([archive.names[name] for name in names], np.int64))
    file = archive.file

    def array(record: Record) -> Held:
        return _stored(_head(file, record), record.size, lambda: whole(file, record))

    return {
        name.decode("utf-8", "replace").removesuffix(".npy"): array(records[index]) for index, name in enumerate(names)
    }


def _head(file: Opened, record: Record) -> bytes:
    if record.packed < 0:
        return file.read(record.start, min(record.size, _HEAD))
    try:
        return zlib.decompressobj(wbits=-15).decompress(file.read(record.start, min(record.packed, _HEAD)), _HEAD)
    except zlib.error as error:
        raise Refused("a compressed record is damaged") from error


def _stored(head: bytes, size: int, read: Callable[[], bytes]) -> Held:
    """An array by the beginning of its ``.npy`` bytes, of which there are ``size``."""
    source = io.BytesIO(head)
    if head[len(NPY_MAGIC) : len(NPY_MAGIC) + 2] not in _VERSIONS:
        raise Refused("its array has a header of a kind that holds no numbers")
    try:
        version = np.lib.format.read_magic(source)
        first = version == (1, 0)
        reader = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        with warnings.catch_warnings():  # of the header's syntax, on stderr
            warnings.simplefilter("ignore")
            shape, fortran, dtype = reader(source)
    except Exception as error:  # whatever Python's own tokenizer and parser raise: numpy hands the header to them
        raise Refused("its array's header is damaged or cut short") from error
    if dtype.hasobject:
        raise Refused("it holds Python objects, which are not loaded: save a numeric array")
    start = source.tell()
    _refuse_lies(shape, dtype, size - start)
    return _array(dtype, shape, lambda: read()[start:], fortran=fortran)


def pickled_array(call: Call) -> Held | None:
    """The array or the scalar that numpy would make by this call; ``None`` if it is no such call.

    Raises:
        Refused: it is one, and lies about its size.
    """
    path = call.func.path if call.func else ""
    if _RECONSTRUCT.fullmatch(path):
        match call.state:
            case (int(), tuple(shape), Call() as kind, bool(fortran), raw):
                return _pickled(kind, shape, raw, fortran=fortran)
    elif _SCALAR.fullmatch(path):
        match call.args:
            case (Call() as kind, raw):
                return _pickled(kind, (), raw, fortran=False)
    elif _FROM_BUFFER.fullmatch(path):
        match call.args:
            case (raw, Call() as kind, tuple(shape), "C" | "F" as order):
                return _pickled(kind, shape, raw, fortran=order == "F")
    return None


def _pickled(kind: Call, shape: tuple[Any, ...], raw: object, *, fortran: bool) -> Held:
    dtype, data = _dtype(kind), _bytes(raw)
    if dtype is None or data is None:
        return Held("unknown", (), None, odd="an array of Python objects or records")
    _refuse_lies(shape, dtype, len(data))
    return _array(dtype, shape, lambda: data, fortran=fortran)


def _refuse_lies(shape: tuple[Any, ...], dtype: np.dtype[Any], length: int) -> None:
    if not all(type(size) is int and 0 <= size <= limits.CHANNELS for size in shape) or len(shape) > limits.DIMENSIONS:
        raise Refused("its array has a shape that no batch has")
    if math.prod(shape) * dtype.itemsize != length:
        raise Refused("its array is not as long as its shape says: it is truncated or damaged")


def _dtype(kind: Call) -> np.dtype[Any] | None:
    """``numpy.dtype(code, ...)`` with its byte order in the state."""
    code = kind.args[0] if kind.func and kind.func.path == "numpy.dtype" and kind.args else None
    if not isinstance(code, str) or not _NUMBER.fullmatch(code):
        return None
    order: Any = kind.state[1] if isinstance(kind.state, tuple) and len(kind.state) > 1 else "="
    return np.dtype(code).newbyteorder(order) if order in ("<", ">", "=", "|") else None


def _bytes(raw: object) -> bytes | None:
    """Bytes, also as pickle protocol 2 spells them: by encoding a text."""
    match raw:
        case bytes():
            return raw
        case Call(func=func, args=(str(text), "latin1" | "latin-1")) if func and func.path == "_codecs.encode":
            try:
                return text.encode("latin-1")
            except UnicodeEncodeError:
                return None
    return None


def _array(dtype: np.dtype[Any], shape: tuple[int, ...], raw: Callable[[], bytes], *, fortran: bool) -> Held:
    name = dtype.newbyteorder("=").name
    if name not in SIZES:
        return Held(name, shape, None, odd=f"an array of {name}, which is no tensor's type")

    def read() -> Vector:
        flat = np.frombuffer(raw(), dtype, math.prod(shape))
        try:
            shaped = flat.reshape(shape, order="F" if fortran else "C")
        except ValueError as error:  # of no elements, and of more along one dimension than numpy can count
            raise Refused("its array has a shape that no batch has") from error
        return np.array(shaped, dtype.newbyteorder("="), order="C")

    return Held(name, shape, read)
