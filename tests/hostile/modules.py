"""Pickled modules and TorchScript archives that lie about a layer's settings, and honest files of hostile numbers."""

# ruff: noqa: E501 - one case, one line

from __future__ import annotations

import pickle
import struct

import numpy as np

from hostile.build import (
    CHANNELS,
    FIELDS,
    LAYER,
    archive,
    call,
    checkpoint,
    entry,
    finished,
    floats,
    layer,
    legacy,
    many,
    mapping,
    named,
    number,
    records,
    safetensors,
    state,
    tensor,
    text,
)

COUNTER = struct.pack("<q", 3)
NAN, HUGE = float("nan"), 10**400


def made(path: str, attributes: dict[str, bytes]) -> bytes:
    """An object as pickle spells it: its class, and the attributes that it is given afterwards."""
    return named(path) + pickle.EMPTY_TUPLE + pickle.NEWOBJ + mapping(attributes) + pickle.BUILD


def counter(**lie: object) -> bytes:
    return tensor(**{"key": "4", "count": 1, "shape": (), "strides": (), "storage": "torch.LongStorage"} | lie)


def norm(kind: str = "torch.nn.modules.batchnorm.BatchNorm2d", **lie: bytes) -> bytes:
    """A pickled BatchNorm layer, by default honest."""
    fields = [tensor(str(k)) for k in range(len(FIELDS))]
    own = {
        "training": number(False), "_parameters": mapping(dict(zip(FIELDS[:2], fields[:2], strict=True))),
        "_buffers": mapping(dict(zip(FIELDS[2:], fields[2:], strict=True)) | {"num_batches_tracked": counter()}),
        "_modules": mapping({}), "num_features": number(CHANNELS), "eps": number(1e-5), "momentum": number(0.1),
        "affine": number(True), "track_running_stats": number(True),
    }  # fmt: skip
    return made(kind, own | lie)


def net(inner: bytes, *, name: bytes | None = None) -> bytes:
    """A file of a module that holds one layer."""
    children = pickle.EMPTY_DICT + (name or text("bn1")) + inner + pickle.SETITEM
    whole = made(
        "evil.Net",
        {"training": number(False), "_parameters": mapping({}), "_buffers": mapping({}), "_modules": children},
    )
    return checkpoint(finished(whole), [*floats(), COUNTER])


def modules() -> dict[str, bytes]:
    """Pickled modules: read or refused, and their class, which is there to be imported, is not."""
    odd = {
        "text": text("1e-5"), "nothing": number(None), "nan": number(NAN), "infinite": number(float("inf")), "negative": number(-1.0),
        "zero": number(0.0), "huge": number(HUGE), "truth": number(True), "list": pickle.EMPTY_LIST, "tensor": tensor("0"),
        "call": call("os.system", text("true")), "long-text": text("\x1b[2J" * 100_000), "number": number(7),
    }  # fmt: skip
    settings = ("eps", "momentum", "num_features", "affine", "training", "track_running_stats")
    lies = {f"settings-{kind}": norm(**dict.fromkeys(settings, value)) for kind, value in odd.items()}
    lies |= {
        "honest": norm(), "features-5": norm(num_features=number(5)), "features-many": norm(num_features=number(1 << 62)),
        "kind-escape": norm("evil.\x1b[2JBatchNorm2d"), "kind-long": norm("evil.BatchNorm2d" + "x" * 1_000_000), "kind-evil": norm("evil.BatchNorm2d"),
        "buffers-number": norm(_buffers=number(3)), "buffers-list": norm(_buffers=pickle.EMPTY_LIST), "parameters-text": norm(_parameters=text("x")),
        "modules-call": norm(_modules=call("os.system", text("true"))), "counter-negative": norm(_buffers=mapping({"running_mean": tensor("2"), "running_var": tensor("3"), "num_batches_tracked": counter(offset=-1)})),
        "inner": norm(_modules=mapping({"again": norm()})), "attributes": norm(forward=number(1), __class__=text("x"), __dict__=mapping({})),
        "weights-shape": norm(_parameters=mapping({"weight": tensor("0", shape=(2, 2), strides=(2, 1)), "bias": tensor("1", shape=(3,))})),
    }  # fmt: skip
    for kind, lie in {
        "many": counter(shape=(2,), strides=(0,)),
        "floats": counter(storage="torch.DoubleStorage"),
        "scalar": number(1 << 90),
    }.items():
        lies[f"counter-{kind}"] = norm(
            _buffers=mapping({"running_mean": tensor("2"), "running_var": tensor("3"), "num_batches_tracked": lie})
        )
    found = {name: net(raw) for name, raw in lies.items()}
    found |= {
        "name-number": net(norm(), name=number(3)),
        "name-escape": net(norm(), name=text("\x1b]0;x\x07\n")),
        "name-tuple": net(norm(), name=many((1, 2))),
    }
    found["legacy"] = legacy(finished(norm()), ("0", "1", "2", "3", "4"), [*floats(), COUNTER], [4, 4, 4, 4, 1])
    return {f"module-{name}": raw for name, raw in found.items()}


def scripts(canary: str) -> dict[str, bytes]:
    """TorchScript archives: the layer is read; code beside it is not, in whatever language."""
    script = made(
        "__torch__.torch.nn.modules.batchnorm.BatchNorm2d",
        {"training": number(False)} | {f: tensor(str(k)) for k, f in enumerate(FIELDS)},
    )
    for name in reversed(LAYER.split(".")):
        script = made("__torch__.Net", {"training": number(False), name: script})
    payload = finished(call("os.system", text(f"touch {canary}")))
    plain = [
        *records(finished(script)),
        ("a/constants.pkl", payload),
        ("a/code/__torch__.py", f"import os; os.system('touch {canary}')".encode()),
    ]
    found = {
        "honest": archive(plain), "debug": archive([*plain, ("a/code/__torch__.py.debug_pkl", payload)]),
        "traversal": archive([*plain, ("a/code/../../../etc/cron.d/x", payload), ("/etc/cron.d/x", payload)]),
    }  # fmt: skip
    return {f"script-{name}": raw for name, raw in found.items()}


def numbers() -> dict[str, bytes]:
    """Honest layers whose values are none that a network should have: read."""
    odd = {
        "nan": [np.nan], "infinite": [np.inf, -np.inf], "negative": [-1.0], "zero": [0.0], "minus-zero": [-0.0],
        "largest": [np.finfo("f8").max], "smallest": [5e-324], "mixed": [np.nan, 1e308, -1e-308, np.inf],
    }  # fmt: skip
    found = {}
    for name, values in odd.items():
        whole = (values * CHANNELS)[:CHANNELS]
        for kind, dtype, storage in (("f8", "<f8", "Double"), ("f4", "<f4", "Float"), ("f2", "<f2", "Half")):
            with np.errstate(over="ignore"):
                raw = np.array(whole, dtype).tobytes()
            fields = {field: tensor(str(k), storage=f"torch.{storage}Storage") for k, field in enumerate(FIELDS)}
            found[f"{name}-{kind}"] = checkpoint(state(**fields), [raw] * len(FIELDS))
    whole = b"".join(struct.pack("<4H", 0x7FC0, 0x7F80, 0xFF80, 1) for _ in FIELDS)
    found["bfloat16"] = safetensors(
        {f"{LAYER}.{field}": entry(8 * k, 8 * k + 8, dtype="BF16") for k, field in enumerate(FIELDS)}, whole
    )
    eights = {f"{LAYER}.{field}": entry(4 * k, 4 * k + 4, dtype="F8_E5M2") for k, field in enumerate(FIELDS)}
    found["float8"] = safetensors(eights, b"\x7c\x7f\xfc\x80" * len(FIELDS))
    empty = safetensors({f"{LAYER}.{field}": entry(0, 0, (0,)) for field in FIELDS})
    found["no-channels"] = empty
    return {f"value-{name}": raw for name, raw in found.items()}


def all_names(names: list[str]) -> bytes:
    """One checkpoint with a layer under each name, all of them with NaN for a variance."""
    tensors = {key: value for name in names for key, value in layer(name).items()}
    return checkpoint(finished(mapping(tensors)), [*floats()[:3], np.full(CHANNELS, np.nan, "<f4").tobytes()])
