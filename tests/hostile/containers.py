"""Zip files, legacy streams, safetensors files, indices and exports with one thing wrong in each."""

# ruff: noqa: E501 - one case, one line

from __future__ import annotations

import io
import json
import pickle
import tarfile

from hostile import modules
from hostile.build import (
    CHANNELS,
    FIELDS,
    LAYER,
    archive,
    checkpoint,
    entry,
    floats,
    good_header,
    good_safetensors,
    legacy,
    number,
    records,
    safetensors,
    state,
    tensor,
    text,
    view,
)

GOOD = checkpoint(state())
PARTS = records(state())
DEFLATED = archive(PARTS, deflate=tuple(name for name, _ in PARTS))


def _changed(raw: bytes, place: int, value: bytes | None = None) -> bytes:
    new = value if value is not None else bytes([raw[place] ^ 0x40])
    return raw[:place] + new + raw[place + len(new) :]


def zips() -> dict[str, bytes]:
    """Zip structure: all refused."""
    data, directory = GOOD.index(floats()[2]), GOOD.index(b"PK\1\2")
    made = {
        "duplicate": archive([*PARTS, ("a/data/2", floats()[3])]), "duplicate-pickle": archive([*PARTS, ("a/data.pkl", b"")]),
        "case": archive([*PARTS, ("a/Data/2", floats()[3])]), "two-roots": archive([*PARTS, ("b/data.pkl", state())]),
        "no-pickle": archive(PARTS[1:]), "no-root": archive([(n[2:], raw) for n, raw in PARTS]), "empty": archive([]),
        "not-torch": archive([("hello.txt", b"hello")]), "overlap": archive(PARTS, offset={"a/data/2": GOOD.index(b"PK\3\4", 9)}),
        "same-offset": archive(PARTS, offset={"a/data/3": 0}), "offset-beyond": archive(PARTS, offset={"a/data/3": 1 << 30}),
        "size-large": archive(PARTS, size={"a/data/3": 999}, packed={"a/data/3": 999}),
        "size-huge": archive(PARTS, size={"a/data/3": 0xFFFFFFFF}, packed={"a/data/3": 0xFFFFFFFF}),
        "size-small": archive(PARTS, size={"a/data/3": 4}, packed={"a/data/3": 4}), "sizes-differ": archive(PARTS, size={"a/data/3": 4}),
        "crc": archive(PARTS, crc={"a/data/3": 1}), "crc-pickle": archive(PARTS, crc={"a/data.pkl": 1}),
        "crc-zero": archive(PARTS, crc={"a/data/3": 0}), "encrypted": archive(PARTS, flags={"a/data.pkl": 1}),
        "local-name": archive(PARTS, local={"a/data/3": b"a/data/2"}), "local-longer": archive(PARTS, local={"a/data/3": b"a/data/33"}),
        "deflated-crc": archive(PARTS, deflate=("a/data/3",), crc={"a/data/3": 1}), "deflated-long": archive(PARTS, deflate=("a/data/3",), size={"a/data/3": 17}),
        "deflated-short": archive(PARTS, deflate=("a/data/3",), size={"a/data/3": 15}), "deflated-huge": archive(PARTS, deflate=("a/data/3",), size={"a/data/3": 1 << 31}),
        "deflated-garbage": _changed(DEFLATED, DEFLATED.index(b"a/data/3") + 8, b"\xff\xff\xff"), "deflated-cut": archive(PARTS, deflate=("a/data.pkl",), packed={"a/data.pkl": 9}),
        "count-more": archive(PARTS, count=99), "count-less": archive(PARTS, count=2), "count-64": archive(PARTS, count=0xFFFF),
        "length-less": archive(PARTS, length=9), "length-more": archive(PARTS, length=1 << 20), "start-zero": archive(PARTS, start=0),
        "start-64": archive(PARTS, start=0xFFFFFFFF), "prefixed": b"PK\3\4" + GOOD, "suffixed": GOOD + b"tail",
        "comment-lie": GOOD[:-2] + b"\7\0", "polyglot": GOOD + GOOD, "magic-only": b"PK\3\4", "end-only": b"PK\5\6" + bytes(18),
        "flip-value": _changed(GOOD, data + 3), "flip-pickle": _changed(GOOD, GOOD.index(b"running_mean")),
        "flip-directory": _changed(GOOD, directory + 1), "flip-entry-crc": _changed(GOOD, GOOD.rindex(b"a/data/3") - 30),
        "flip-local": _changed(GOOD, GOOD.index(b"a/data/3")), "flip-end": _changed(GOOD, len(GOOD) - 20),
    }  # fmt: skip
    return {f"zip-{name}": raw for name, raw in made.items()}


def repacked() -> dict[str, bytes]:
    """Honest checkpoints that another program has zipped anew, compressed: read."""
    ones = archive(records(state(), [b"\0\0\x80?" * CHANNELS] * 4), deflate=("a/data/0", "a/data/3"))
    return {"zip-deflated": DEFLATED, "zip-deflated-partly": ones}


def legacies() -> dict[str, bytes]:
    """Legacy streams: all refused."""
    good = state()
    made = {
        "no-keys": legacy(good, keys=(), values=[]), "keys-fewer": legacy(good, keys=("0", "1", "2")),
        "keys-more": legacy(good, keys=("0", "1", "2", "3", "4")), "keys-twice": legacy(good, keys=("0", "1", "2", "2")),
        "keys-numbers": legacy(good, keys=(0, 1, 2, 3)), "keys-dict": legacy(good, keys=pickle.dumps({"0": 1}, 2)),
        "keys-none": legacy(good, keys=pickle.dumps(None, 2)), "keys-missing": legacy(good, keys=b"", values=[]),
        "count-1e9": legacy(good, counts=[4, 4, 4, 10**9]), "count-1e12": legacy(good, counts=[10**12, 4, 4, 4]),
        "count-huge": legacy(good, counts=[4, 4, 4, (1 << 64) - 1]), "count-zero": legacy(good, counts=[0, 4, 4, 4]),
        "declared-1e9": legacy(state(running_var=tensor("3", count=10**9)), counts=[4, 4, 4, 10**9]),
        "protocol": legacy(good, protocol=1000), "protocol-text": legacy(good, protocol="1001"), "magic-only": legacy(b"", (), [])[:16],
        "text-id": legacy(state(running_var=text("x") + pickle.BINPERSID)),
        "view-beyond": legacy(state(running_var=view(1, 4))), "view-offset": legacy(state(running_var=view(5, 0))), "view-negative": legacy(state(running_var=view(-1, 4))),
        "view-short": legacy(state(running_var=view(0, 3))), "view-text": legacy(state(running_var=view("0", 4))), "view-huge": legacy(state(running_var=view(0, 1 << 62))), "constructor": legacy(state(running_var=b"ctorch\nFloatTensor\n(K\4tR"), ("0", "1", "2"), floats()[:3]),
        "unknown-type": legacy(state(running_var=tensor("3", storage="torch.NopeStorage"))),
        "deep": legacy(pickle.PROTO + b"\2" + pickle.EMPTY_LIST * 3_000_000), "number": legacy(pickle.dumps(3, 2), keys=("0",), values=[b"1234"]),
    }  # fmt: skip
    return {f"legacy-{name}": raw for name, raw in made.items()}


def tensors() -> dict[str, bytes]:
    """Safetensors headers: all refused."""
    data, good = b"".join(floats()), good_header()
    first, last = f"{LAYER}.weight", f"{LAYER}.running_var"

    def with_(**lie: object) -> bytes:
        return safetensors(good | {last: good[last] | lie}, data)

    raw = json.dumps(good).encode()
    made = {
        "length-huge": safetensors(good, data, 1 << 62), "length-100m": safetensors(good, data, 100_000_001),
        "length-beyond": safetensors(good, data, 99_999), "length-short": safetensors(good, data, 20), "length-zero": safetensors(b"", data),
        "no-json": safetensors(b"{nope}", data), "list": safetensors(b"[]", data), "number": safetensors(b"{1:2}", data),
        "not-utf8": safetensors(b'{"\xff": 1}', data), "bom": safetensors(b"\xef\xbb\xbf" + raw, data), "nan": safetensors(raw.replace(b"48", b"NaN"), data),
        "hole": with_(data_offsets=[52, 68]), "overlap": with_(data_offsets=[40, 56]), "reversed": with_(data_offsets=[64, 48]),
        "negative": with_(data_offsets=[-16, 0]), "beyond": with_(data_offsets=[48, 1 << 60]), "offsets-three": with_(data_offsets=[48, 64, 64]),
        "offsets-text": with_(data_offsets=["48", "64"]), "trailing": safetensors(good, data + b"x"), "short": safetensors(good, data[:-1]),
        "shape-negative": with_(shape=[-4]), "shape-wrong": with_(shape=[5]), "shape-overflow": with_(shape=[1 << 62, 1 << 62]), "shape-huge": with_(shape=[1 << 70]),
        "shape-float": with_(shape=[4.5]), "shape-text": with_(shape="4"), "shape-100k": with_(shape=[1] * 100_000), "shape-none": with_(shape=None),
        "dtype-unknown": with_(dtype="F33"), "dtype-number": with_(dtype=32), "dtype-wrong": with_(dtype="F64"), "dtype-bomb": with_(dtype="X" * 15_000),
        "missing-dtype": safetensors({first: {"shape": [4], "data_offsets": [0, 16]}}, data[:16]),
        "twice": safetensors(raw[:-1] + b"," + json.dumps({last: entry(48, 64)})[1:].encode(), data),
        "twice-escaped": safetensors(raw[:-1] + b"," + json.dumps({last: entry(48, 64)})[1:].encode().replace(b"layer1", b"\\u006cayer1"), data),
        "twice-field": safetensors(raw.replace(b'"dtype"', b'"dtype": "F32", "dtype"', 1), data),
        "metadata-number": safetensors({"__metadata__": {"a": 1}} | good, data), "metadata-list": safetensors({"__metadata__": []} | good, data),
        "nested": safetensors(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", data), "entries": safetensors(b'{"a":{},' * 3_000_000, data),
        "nested-entry": safetensors(b'{"a":' * 200_000 + b"}" * 200_000, data), "digits": safetensors(raw.replace(b"48", b"4" * 100_000), data),
    }  # fmt: skip
    return {f"safetensors-{name}": raw for name, raw in made.items()}


def indices() -> dict[str, bytes]:
    """Indices of sharded models: all refused."""
    keys = [f"{LAYER}.{field}" for field in FIELDS]

    def index(shard: object) -> bytes:
        return json.dumps({"metadata": {}, "weight_map": dict.fromkeys(keys, shard)}).encode()

    made = {
        "traversal": index("../../etc/passwd"), "absolute": index("/etc/passwd"), "backslash": index("..\\x"), "drive": index("c:x"),
        "empty": index(""), "dot": index(".."), "nul": index("a\0b"), "missing": index("nowhere.safetensors"), "escape": index("\x1b[2Jx"),
        "number": index(3), "none": b"{}", "list": b'{"weight_map": []}', "self": index("index.json"), "long": index("x" * 5000),
        "nested": b'{"weight_map":' * 100_000, "cut": index("a")[:-3], "surrogate": b'{"weight_map": {"x.running_mean": "\\ud800"}}',
        "many": json.dumps({"weight_map": {f"l{k}.running_mean": f"s{k}" for k in range(5000)}}).encode(),
    }  # fmt: skip
    return {f"index-{name}": raw for name, raw in made.items()}


def _weight(index: int, **lie: object) -> dict[str, object]:
    meta = {
        "dtype": 7,
        "sizes": [{"as_int": CHANNELS}],
        "strides": [{"as_int": 1}],
        "storage_offset": {"as_int": 0},
        "layout": 7,
    }
    weight = {
        "path_name": f"weight_{index}",
        "is_param": True,
        "use_pickle": False,
        "tensor_meta": meta | lie.pop("meta", {}),
    }
    return weight | lie


def export(model: bytes | None = None, **lie: object) -> bytes:
    """A torch.export archive of one layer; ``lie`` changes its last weight."""
    config = {f"{LAYER}.{field}": _weight(k, **(lie if k == 3 else {})) for k, field in enumerate(FIELDS)}
    graph = {"graph_module": {"graph": {"nodes": []}, "signature": {"input_specs": []}}}
    parts = [
        ("m/models/model.json", json.dumps(graph).encode() if model is None else model),
        ("m/byteorder", b"little"),
    ]
    parts.append(("m/data/weights/model_weights_config.json", json.dumps({"config": config}).encode()))
    return archive([*parts, *((f"m/data/weights/weight_{k}", raw) for k, raw in enumerate(floats()))])


def older(state_dict: bytes = GOOD, graph: bytes | None = None, **lie: object) -> bytes:
    """The same as torch wrote it before 2.8."""
    said = json.dumps({"graph_module": {"graph": {"nodes": []}, "signature": {"input_specs": []}}}).encode()
    named = [("version", b"8.1"), ("serialized_exported_program.json", said if graph is None else graph)]
    return archive([*named, ("serialized_state_dict.pt", state_dict)], **lie)


def exports() -> dict[str, bytes]:
    """torch.export archives: all refused."""
    made = {
        "use-pickle": export(use_pickle=True), "sparse": export(meta={"layout": 1}), "no-record": export(path_name="weight_9"),
        "escape": export(path_name="../../models/model.json"), "size": export(meta={"sizes": [{"as_int": 5}]}),
        "negative": export(meta={"sizes": [{"as_int": -4}]}), "stride": export(meta={"strides": [{"as_int": 9}]}),
        "offset": export(meta={"storage_offset": {"as_int": 1}}), "symbolic": export(meta={"sizes": [{"as_expr": "s0"}]}),
        "dims": export(meta={"strides": []}), "number": export(use_pickle=3), "cut": export(b'{"graph_module": '), "nested": export(b"[" * 100_000),
        "older-graph": older(graph=b"nope"), "older-state": older(b"nope"), "older-cut": older(GOOD[:-9]), "older-nested": older(older()), "older-code": older(checkpoint(state(running_var=tensor("9")))),
        "older-deflated": older(deflate=("serialized_state_dict.pt",)), "older-both": archive([*records(state()), ("serialized_exported_program.json", b"{}"), ("serialized_state_dict.pt", GOOD)]),
        "empty": export(b"{}"), "text": export(b"nope"), "stride-0": export(meta={"sizes": [{"as_int": 10**12}], "strides": [{"as_int": 0}]}),
        "node": export(json.dumps({"graph_module": {"graph": {"nodes": [{"target": "torch.ops.aten.batch_norm.default", "inputs": 3, "metadata": {}}]}, "signature": {"input_specs": []}}}).encode()),
    }  # fmt: skip
    return {f"export-{name}": raw for name, raw in made.items()}


def whole() -> dict[str, bytes]:
    """An honest file of every kind of container."""
    shards = json.dumps({"weight_map": {f"{LAYER}.{field}": "shard" for field in FIELDS}})
    return {
        "zip": GOOD, "deflated": DEFLATED, "legacy": legacy(state()), "safetensors": good_safetensors(), "export": export(), "older": older(),
        "module": modules.modules()["module-honest"], "script": modules.scripts("canary")["script-honest"], "index": shards.encode(),
    }  # fmt: skip


_MARKS = {
    "legacy": [b"\x80\2", b"X", b"\4\0\0\0\0\0\0\0"],
    "safetensors": [b'{"', b"}", floats()[1]],
    "index": [b'"', b"}"],
}


def cuts() -> dict[str, bytes]:
    """Honest files cut short at the first and the last of each kind of boundary: all refused."""
    made = {"cut-empty": b""}
    for kind, raw in whole().items():
        marks = _MARKS.get(kind, [b"PK\3\4", b"PK\1\2", b"PK\5\6"])
        places = {1, 8, len(raw) - 1} | {raw.find(mark) for mark in marks} | {raw.rfind(mark) + 1 for mark in marks}
        made |= {f"cut-{kind}-{place}": raw[:place] for place in sorted(places - {0, len(raw)})}
    return made


def _tar() -> bytes:
    """A file as torch wrote it before 0.1.10, whose reader once ran what ``weights_only`` forbade."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, raw in (("sys_info", pickle.dumps({})), ("pickle", state()), ("storages", b""), ("tensors", b"")):
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            file.addfile(member, io.BytesIO(raw))
    return buffer.getvalue()


def others() -> dict[str, bytes]:
    """Other kinds of file: all refused."""
    tar = bytes(257) + b"ustar" + bytes(1000)
    return {"other-tar-torch": _tar(),
        "other-text": b"hello, world\n" * 100, "other-json": b'{"a": 1}', "other-pickle": pickle.dumps({"a": 1}), "other-tar": b"x" + tar[1:],
        "other-zeros": bytes(5000), "other-elf": b"\x7fELF" + bytes(500), "other-onnx": b"\x08\x07\x12\x07pytorch" + bytes(90),
        "other-hdf5": b"\x89HDF\r\n\x1a\n" + bytes(90), "other-npy": b"\x93NUMPY\1\0" + bytes(90), "other-one-byte": b"\x80",
        "other-number": b"\x80\2" + number(1), "other-brace": b"{", "other-eight": bytes(8) + b"{",
    }  # fmt: skip
