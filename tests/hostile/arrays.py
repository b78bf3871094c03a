"""Files that are given as a batch: numpy's arrays, and what only a batch may hold."""

# ruff: noqa: E501 - one case, one line

from __future__ import annotations

import io
import pickle
import struct

import numpy as np

from hostile.build import (
    archive,
    call,
    checkpoint,
    finished,
    floats,
    legacy,
    many,
    mapping,
    named,
    number,
    safetensors,
    tensor,
    text,
)

DATA = np.arange(24, dtype="<f4").tobytes()
SHAPE = (2, 3, 2, 2)


def npy(header: object = None, data: bytes = DATA, version: bytes = b"\1\0", length: int | None = None) -> bytes:
    """A ``.npy`` file; by default honest."""
    said = {"descr": "<f4", "fortran_order": False, "shape": SHAPE} if header is None else header
    raw = said if isinstance(said, bytes) else repr(said).encode()
    size = struct.pack("<H" if version == b"\1\0" else "<I", len(raw) + 1 if length is None else length)
    return b"\x93NUMPY" + version + size + raw + b"\n" + data


def header(**lie: object) -> dict[str, object]:
    return {"descr": "<f4", "fortran_order": False, "shape": SHAPE} | lie


def arrays() -> dict[str, bytes]:
    """``.npy`` files: all refused."""
    made = {
        "magic": b"\x93NUMPY", "cut-header": npy()[:40], "cut-data": npy()[:-1], "trailing": npy() + b"x", "version-3": npy(version=b"\3\0"),
        "version-99": npy(version=b"\x63\0"), "length-beyond": npy(length=60_000), "length-huge": npy(version=b"\2\0", length=0xFFFFFFFF),
        "code": npy(b"__import__('os').system('true')"), "call": npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': tuple([2])}"),
        "nested": npy(b"(" * 9_000 + b")" * 900), "long": npy(b" " * 11_000), "nul": npy(b"{'descr': '\0'}"), "list": npy(b"[1]"), "text": npy(b"'x'"),
        "missing": npy({"descr": "<f4"}), "more": npy(header(more=1)), "fortran-text": npy(header(fortran_order="x")), "shape-text": npy(header(shape="x")),
        "shape-number": npy(header(shape=24)), "shape-float": npy(header(shape=(24.0,))), "shape-negative": npy(header(shape=(-2, -3, 2, 2))),
        "shape-huge": npy(header(shape=(1 << 62, 1 << 62))), "shape-none": npy(header(shape=(0, 1 << 62)), b""), "shape-none-2": npy(header(shape=(0, *(1 << 20,) * 9)), b""),
        "shape-dims": npy(header(shape=(1,) * 99), DATA[:4]), "shape-bool": npy(header(shape=(True, 24))), "objects": npy(header(descr="|O")),
        "objects-pickled": npy(header(descr="|O", shape=(1,)), finished(call("os.system", text("true")))),
        "records": npy(header(descr=[("a", "<f4")])), "texts": npy(header(descr="<U1")), "void": npy(header(descr="|V4")), "nothing": npy(header(descr="|S0"), b""),
        "dates": npy(header(descr="<M8[s]", shape=(12,))), "descr-number": npy(header(descr=3)), "descr-code": npy(header(descr="f4,(999999999,)f8")),
    }  # fmt: skip
    return {f"npy-{name}": raw for name, raw in made.items()}


def zipped() -> dict[str, bytes]:
    """``.npz`` files: all refused."""
    good, bomb = npy(), npy(header(shape=(125_000_000,)), bytes(500_000_000))
    made = {
        "bomb": archive([("x.npy", bomb)], deflate=("x.npy",)), "crc": archive([("x.npy", good)], crc={"x.npy": 1}),
        "header": archive([("x.npy", npy(b"nope"))]), "objects": archive([("x.npy", npy(header(descr="|O")))]), "empty-record": archive([("x.npy", b"")]),
        "short": archive([("x.npy", good[:-4])]), "encrypted": archive([("x.npy", good)], flags={"x.npy": 1}), "twice": archive([("x.npy", good), ("x.npy", good)]),
        "deflated-lie": archive([("x.npy", good)], deflate=("x.npy",), size={"x.npy": len(good) + 1}), "cut": archive([("x.npy", good)])[:-9],
        "other": archive([("x.npy", good), ("readme.txt", b"hello")]),
    }  # fmt: skip
    return {f"npz-{name}": raw for name, raw in made.items()}


def _kind(code: str = "f4", order: str = "<") -> bytes:
    state = pickle.MARK + number(3) + text(order) + pickle.NONE * 3 + number(-1) * 2 + number(0) + pickle.TUPLE
    return call("numpy.dtype", text(code), pickle.NEWFALSE, pickle.NEWTRUE) + state + pickle.BUILD


def _encoded(raw: bytes) -> bytes:
    return call("_codecs.encode", text(raw.decode("latin-1")), text("latin1"))


def array(
    shape: object = SHAPE, kind: bytes | None = None, raw: bytes | None = None, order: bytes = pickle.NEWFALSE
) -> bytes:
    """numpy's pickle of an array; by default honest."""
    made = call("numpy._core.multiarray._reconstruct", named("numpy.ndarray"), many((0,)), _encoded(b"b"))
    state = (
        number(1)
        + (shape if isinstance(shape, bytes) else many(shape))
        + (kind or _kind())
        + order
        + (raw or _encoded(DATA))
    )
    return made + pickle.MARK + state + pickle.TUPLE + pickle.BUILD


def pickled() -> dict[str, bytes]:
    """Pickles around numpy's arrays, and containers: all refused."""
    laughs = pickle.BINPUT + b"\1" + pickle.POP + pickle.BINGET + b"\1" + pickle.BINGET + b"\1" + pickle.TUPLE2
    cycle = pickle.EMPTY_LIST + pickle.BINPUT + b"\2" + pickle.BINGET + b"\2" + pickle.APPEND
    made = {
        "long": array((3, 3, 2, 2)), "short": array((2,)), "negative": array((-2, -3, 2, 2)), "huge": array((1 << 62, 1 << 62)), "float": array((24.0,)),
        "none": array(number(None)), "nothing": array((0, 1 << 24, 1 << 24, 1 << 24), raw=_encoded(b"")), "dims": array((1,) * 99, raw=_encoded(b"1234")),
        "objects": array(kind=_kind("O8", "|")), "void": array(kind=_kind("V4", "|")), "code": array(kind=_kind("f4,(99999999,)f8")), "order": array(kind=_kind(order="x")),
        "no-dtype": array(kind=call("os.system", text("true"))), "raw-number": array(raw=number(3)), "raw-text": array(raw=call("_codecs.encode", text("ü€" * 12), text("latin1"))),
        "codec": array(raw=call("_codecs.encode", text("00"), text("hex"))), "scalar": call("numpy._core.multiarray.scalar", _kind(), _encoded(b"12345")),
        "buffer": call("numpy._core.numeric._frombuffer", pickle.SHORT_BINBYTES + b"\4abcd", _kind(), many((3,)), text("C")),
        "no-state": call("numpy._core.multiarray._reconstruct", named("numpy.ndarray"), many((0,)), _encoded(b"b")),
        "bytearray": call("builtins.bytearray", number(1 << 31)), "constructor": call("torch.FloatTensor", number(10**9)), "class": call("os.system", text("true")),
        "hex": call("_codecs.encode", call("_codecs.encode", text("ab" * 99), text("hex")), text("hex")), "long-global": named("x." + "a" * 1_000_000),
        "terminal": named("x.\x1b[2K\rOK: the batch is healthy\x1b[8m"), "dataset-number": call("torch.utils.data.dataset.TensorDataset") + mapping({"tensors": number(3)}) + pickle.BUILD,
        "dataset-empty": call("torch.utils.data.dataset.TensorDataset"), "cycle": cycle, "laughs": pickle.EMPTY_LIST + laughs * 200, "deep": (pickle.EMPTY_LIST * 100_000 + number(1) + pickle.APPEND * 100_000),
        "deep-tensor": tensor() + pickle.TUPLE1 * 100_000, "stride-0": tensor(shape=(10**6, 3, 10**3, 10**3), strides=(0, 0, 0, 0)), "overlap": tensor(shape=(4,) * 20, strides=(0,) * 20),
        "lists": pickle.EMPTY_LIST + pickle.MARK + pickle.EMPTY_LIST * 1_000_000 + pickle.APPENDS, "nothing-in-it": mapping({"a": number(1)}), "no-elements": tensor(shape=(0, 1 << 62, 1 << 62), strides=(1, 1, 1)),
    }  # fmt: skip
    named_globals = checkpoint(finished(named("x." + "a" * 80_000)))
    deflated = archive([("a/data.pkl", finished(named("x." + "a" * 80_000)))], deflate=("a/data.pkl",))
    others = {
        "global-deflated": deflated,
        "global": named_globals,
        "legacy-uninitialised": legacy(finished(tensor()), keys=(), values=[]),
    }
    return {f"batch-{name}": checkpoint(finished(raw)) for name, raw in made.items()} | {
        f"batch-{n}": raw for n, raw in others.items()
    }


def honest(canary: str) -> dict[str, bytes]:
    """What is read, with what a stranger might put beside it."""
    plain = [b"".join(floats()) + bytes(32)]
    x = tensor("0", 24, SHAPE, (12, 4, 2, 1))
    dataset = call("torch.utils.data.dataset.TensorDataset") + mapping({"tensors": x + pickle.TUPLE1}) + pickle.BUILD
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=np.zeros(SHAPE, "f4"))
    made = {
        "tensor": checkpoint(finished(x), plain), "dataset": checkpoint(finished(dataset), plain), "array": checkpoint(finished(array())),
        "beside-code": checkpoint(finished(mapping({"x": x, "y": call("os.system", text(f"touch {canary}"))})), plain),
        "named": checkpoint(finished(mapping({"\x1b[2J\n=1": x})), plain), "npy": npy(), "npz": buffer.getvalue(), "legacy": legacy(finished(x), ("0",), plain),
        "nested": checkpoint(finished(pickle.EMPTY_LIST + mapping({"image": x}) + pickle.APPEND), plain),
        "safetensors": safetensors({"x": {"dtype": "F32", "shape": list(SHAPE), "data_offsets": [0, 96]}}, DATA),
        "cycle-beside": checkpoint(finished(pickle.EMPTY_LIST + pickle.BINPUT + b"\2" + x + pickle.APPEND + pickle.BINGET + b"\2" + pickle.APPEND), plain),
    }  # fmt: skip
    return {f"honest-{name}": raw for name, raw in made.items()}
