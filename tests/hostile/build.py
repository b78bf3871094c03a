"""Bytes of checkpoints, assembled opcode by opcode, so that each can lie in exactly one place."""

# ruff: noqa: E501, PLR0917 - one case, one line; a builder takes what a case may lie about

from __future__ import annotations

import functools
import json
import pickle
import struct
import zlib

import numpy as np

LAYER = "layer1.0.bn1"
FIELDS = ("weight", "bias", "running_mean", "running_var")
CHANNELS = 4


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return pickle.BINUNICODE + struct.pack("<I", len(raw)) + raw


def number(value: object) -> bytes:
    if isinstance(value, int) and not isinstance(value, bool):
        return (
            pickle.LONG1 + bytes([size := (value.bit_length() // 8 + 1)]) + value.to_bytes(size, "little", signed=True)
        )
    if isinstance(value, str):
        return text(value)
    return {None: pickle.NONE, True: pickle.NEWTRUE, False: pickle.NEWFALSE}.get(value) or (
        pickle.BINFLOAT + struct.pack(">d", value)
    )


def many(values: object) -> bytes:
    return pickle.MARK + b"".join(map(number, values)) + pickle.TUPLE


def named(path: str) -> bytes:
    module, _, name = path.rpartition(".")
    return pickle.GLOBAL + module.encode() + b"\n" + name.encode() + b"\n"


def call(path: str, *arguments: bytes) -> bytes:
    return named(path) + pickle.MARK + b"".join(arguments) + pickle.TUPLE + pickle.REDUCE


def tensor(
    key="0",
    count=CHANNELS,
    shape=(CHANNELS,),
    strides=(1,),
    offset=0,
    storage="torch.FloatStorage",
    func=None,
    tail=None,
) -> bytes:
    pid = pickle.MARK + text("storage") + named(storage) + number(key) + text("cpu") + number(count) + pickle.TUPLE
    shape_raw = shape if isinstance(shape, bytes) else many(shape)
    strides_raw = strides if isinstance(strides, bytes) else many(strides)
    rest = tail if tail is not None else pickle.NEWFALSE + call("collections.OrderedDict")
    func = func or "torch._utils._rebuild_tensor_v2"
    return call(func, pid + pickle.BINPERSID, number(offset), shape_raw, strides_raw, rest)


def view(offset: object, count: object, shape=(CHANNELS,), key="3") -> bytes:
    """A tensor on a part of a storage, as torch saved views of a storage before there were zip files."""
    part = pickle.MARK + text(f"v{key}") + number(offset) + number(count) + pickle.TUPLE
    pid = (
        pickle.MARK + text("storage") + named("torch.FloatStorage") + text(key) + text("cpu") + number(CHANNELS) + part
    )
    rest = pickle.NEWFALSE + call("collections.OrderedDict")
    storage = pid + pickle.TUPLE + pickle.BINPERSID
    return call("torch._utils._rebuild_tensor_v2", storage, number(0), many(shape), many((1,)), rest)


def mapping(items: dict[str, bytes]) -> bytes:
    body = b"".join(text(key) + value for key, value in items.items())
    return pickle.EMPTY_DICT + pickle.MARK + body + pickle.SETITEMS


def finished(body: bytes, protocol: int = 2) -> bytes:
    return pickle.PROTO + bytes([protocol]) + body + pickle.STOP


def layer(name: str = LAYER, **changed: bytes) -> dict[str, bytes]:
    """The four tensors of one layer; ``running_var=...`` puts a lie in the place of one."""
    tensors = {field: tensor(str(index)) for index, field in enumerate(FIELDS)}
    return {f"{name}.{field}": value for field, value in (tensors | changed).items()}


def state(name: str = LAYER, extra: dict[str, bytes] | None = None, **changed: bytes) -> bytes:
    return finished(mapping(layer(name, **changed) | (extra or {})))


def floats(count: int = CHANNELS) -> list[bytes]:
    return [np.arange(1 + k, count + 1 + k, dtype="<f4").tobytes() for k in range(len(FIELDS))]


def records(data: bytes, values: list[bytes] | None = None, root: str = "a") -> list[tuple[str, bytes]]:
    named_values = [(f"{root}/data/{k}", raw) for k, raw in enumerate(floats() if values is None else values)]
    return [(f"{root}/data.pkl", data), (f"{root}/byteorder", b"little"), *named_values, (f"{root}/version", b"3\n")]


@functools.lru_cache(4)  # a bomb is the same record many times
def _deflated(raw: bytes) -> bytes:
    packer = zlib.compressobj(1, wbits=-15)
    return packer.compress(raw) + packer.flush()


def archive(parts: list[tuple[str, bytes]], deflate: tuple[str, ...] = (), **lies: object) -> bytes:
    """A zip file; ``lies`` change one field: ``crc={name: ...}``, ``size=``, ``offset=``, ``local=``, ``flags=``, ``count=``."""
    out, directory, places = bytearray(), bytearray(), {}
    for name, raw in parts:
        packed = _deflated(raw) if name in deflate else raw
        method = 8 if name in deflate else 0
        field = {kind: lies.get(kind, {}).get(name) for kind in ("crc", "size", "offset", "local", "flags", "packed")}
        crc = zlib.crc32(raw) if field["crc"] is None else field["crc"]
        encoded, said = name.encode("utf-8", "surrogateescape"), field["local"]
        header = encoded if said is None else said
        places[name] = len(out)
        sizes = (
            len(packed) if field["packed"] is None else field["packed"],
            len(raw) if field["size"] is None else field["size"],
        )
        out += struct.pack("<4s5H3I2H", b"PK\3\4", 0, 0, method, 0, 0, crc, len(packed), len(raw), len(header), 0)
        out += header + packed
        place = places[name] if field["offset"] is None else field["offset"]
        directory += struct.pack(
            "<4s6H3I5H2I",
            b"PK\1\2",
            0,
            0,
            field["flags"] or 0,
            method,
            0,
            0,
            crc,
            *sizes,
            len(encoded),
            0,
            0,
            0,
            0,
            0,
            place,
        )
        directory += encoded
    start = lies.get("start", len(out))
    count = lies.get("count", len(parts))
    length = lies.get("length", len(directory))
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, min(count, 0xFFFF), min(count, 0xFFFF), length, start, 0)
    if len(parts) >= 0xFFFF:
        wide = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, start)
        end = wide + struct.pack("<4sIQI", b"PK\6\7", 0, start + length, 1) + end
    return bytes(out + directory + end)


def checkpoint(data: bytes, values: list[bytes] | None = None, **lies: object) -> bytes:
    return archive(records(data, values), **lies)


def many_layers(layers: int, *, apart: bool = False) -> bytes:
    """A checkpoint of many one-channel layers, spelled as torch.save spells it (which takes half a minute).

    All are on one storage, or ``apart`` on one each.
    """
    words = (
        named("torch._utils._rebuild_tensor_v2"), text("storage"), named("torch.FloatStorage"), text("cpu"),
        named("collections.OrderedDict"), text("0"),
    )  # fmt: skip
    body = [word + pickle.BINPUT + bytes([k]) + pickle.POP for k, word in enumerate(words)]
    body.append(pickle.EMPTY_DICT + pickle.MARK)
    count, field = len(FIELDS) * layers, [f".{field}" for field in FIELDS]
    for k in range(count):
        puts = [pickle.LONG_BINPUT + struct.pack("<I", 8 * k + put + 6) for put in range(8)]
        key, size, offset = (text(str(k)) + puts[7], 1, 0) if apart else (b"h\5", count, k)
        body += [
            text(f"l.{k // 4}{field[k % 4]}"), puts[0], b"h\0((h\1h\2", key, b"h\3J", struct.pack("<I", size), b"t", puts[1], b"QJ",
            struct.pack("<I", offset), b"K\1\x85", puts[2], b"K\1\x85", puts[3], b"\x89h\4)R", puts[4], b"t", puts[5], b"R", puts[6],
        ]  # fmt: skip
    body.append(pickle.SETITEMS)
    values = np.arange(count, dtype="<f4").tobytes()
    return checkpoint(
        finished(b"".join(body)), [values[4 * k : 4 * k + 4] for k in range(count)] if apart else [values]
    )


def legacy(data: bytes, keys=("0", "1", "2", "3"), values=None, counts=None, magic=None, protocol=1001) -> bytes:
    """A legacy stream; by default honest."""
    values = floats() if values is None else values
    counts = [len(raw) // 4 for raw in values] if counts is None else counts
    head = pickle.dumps(0x1950A86A20F9469CFC6C if magic is None else magic, 2) + pickle.dumps(protocol, 2)
    head += pickle.dumps({"protocol_version": 1001, "little_endian": True}, 2)
    listed = keys if isinstance(keys, bytes) else pickle.dumps(list(keys), 2)
    body = b"".join(struct.pack("<Q", count) + raw for count, raw in zip(counts, values, strict=True))
    return head + data + listed + body


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(begin: int, end: int, shape=(CHANNELS,), dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def good_header(name: str = LAYER) -> dict[str, object]:
    return {f"{name}.{field}": entry(16 * k, 16 * k + 16) for k, field in enumerate(FIELDS)}


def good_safetensors() -> bytes:
    return safetensors(good_header(), b"".join(floats()))
