"""What a stored file gives is bit-equal to what torch.load and safetensors give, in every type and layout."""

import collections
import copy
import io
import pickle
import random
import zipfile

import msgspec
import numpy as np
import pytest
import torch
from hostile import build
from safetensors.torch import save_file
from torch import nn

from bninspect.files.pickle.machine import Machine
from bninspect.files.pickle.nodes import Call, Items
from bninspect.files.pickle.steps import run
from bninspect.files.tensors import Storage, Tensor
from bninspect.models.stored.reading import read

FIELDS = ("weight", "bias", "running_mean", "running_var")
FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
EIGHTS = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]


def random_bits(count, dtype):
    """Values of every kind: normal, subnormal, infinite, NaN with a payload."""
    raw = torch.randint(0, 256, (count * dtype.itemsize,), dtype=torch.uint8)
    return raw.view(dtype)


def state(make, name="bn"):
    return {f"{name}.{field}": make(k) for k, field in enumerate(FIELDS)}


def same(layer, expected, name="bn"):
    for field in FIELDS:
        value = expected[f"{name}.{field}"].detach()
        value = value.float() if value.dtype in (torch.bfloat16, *EIGHTS) else value
        got = getattr(layer, field)
        assert got.dtype == value.numpy().dtype
        assert got.dtype.isnative
        assert got.tobytes() == value.contiguous().numpy().tobytes(), field


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "file.bin")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", FLOATS + EIGHTS, ids=str)
def test_every_type_in_torchs_own_containers(path, dtype, zipped):
    torch.manual_seed(0)
    made = state(lambda _: random_bits(256, dtype))
    torch.save(made, path, _use_new_zipfile_serialization=zipped)
    same(read(path).layers[0], made)  # of float8 in a legacy stream, torch.load itself makes nothing
    if zipped or dtype in FLOATS:
        same(read(path).layers[0], torch.load(path, weights_only=True))


@pytest.mark.parametrize("dtype", FLOATS + EIGHTS[:2], ids=str)
def test_every_type_in_safetensors(path, dtype):
    torch.manual_seed(0)
    made = state(lambda _: random_bits(256, dtype))
    save_file(made, path)
    same(read(path).layers[0], made)


@pytest.mark.parametrize("dtype", [*EIGHTS, torch.float8_e8m0fnu], ids=str)
def test_each_of_the_256_codes_of_an_eight_bit_type(path, dtype):
    codes = torch.arange(256, dtype=torch.uint8).view(dtype)
    torch.save(state(lambda _: codes), path)
    assert read(path).layers[0].weight.tobytes() == codes.float().numpy().tobytes()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "view",
    [
        lambda t: t[3:7], lambda t: t[::3][:4], lambda t: t.view(10, 10)[:4, 2], lambda t: t.view(10, 10).t()[1, :4],
        lambda t: t[5:6].expand(4), lambda t: t.view(10, 10).diagonal()[2:6], lambda t: t[96:], lambda t: t[:0],
        lambda t: t.view(2, 50)[1][10:14], lambda t: nn.Parameter(t[:4]),
    ],
)  # fmt: skip
def test_views_strides_and_offsets(path, view, zipped):
    base = torch.arange(100, dtype=torch.float32)
    torch.save(state(lambda _: view(base)), path, _use_new_zipfile_serialization=zipped)
    same(read(path).layers[0], torch.load(path, weights_only=True))


def test_a_view_into_a_record_too_long_to_hold(path, monkeypatch):
    from bninspect.files import limits

    monkeypatch.setattr(limits, "WHOLE_RECORD", 64)
    monkeypatch.setattr(limits, "CHUNK", 40)
    base = torch.arange(1000, dtype=torch.float32)
    made = {
        "bn.weight": base[3:103], "bn.bias": base[::9][:100], "bn.running_mean": base[7:8].expand(100),
        "bn.running_var": base.view(100, 10)[:, 4],
    }  # fmt: skip
    torch.save(made, path)
    same(read(path).layers[0], made)


def big_endian(raw):
    """The same checkpoint as a big-endian machine would write it; all of its storages hold float32."""
    source = zipfile.ZipFile(io.BytesIO(raw))
    parts = []
    for name in source.namelist():
        data = source.read(name)
        if name.endswith("/byteorder"):
            data = b"big"
        elif "/data/" in name:
            data = np.frombuffer(data, "<f4").astype(">f4").tobytes()
        parts.append((name, data))
    return build.archive(parts)


def test_big_endian_records(path):
    made = state(lambda k: torch.arange(8) + k + 0.5)
    buffer = io.BytesIO()
    torch.save(made, buffer)
    raw = big_endian(buffer.getvalue())
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(raw)
    same(read(path).layers[0], torch.load(path, weights_only=True))
    same(read(path).layers[0], made)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_that_torch_can_be_told_to_write(path, protocol):
    made = state(lambda k: torch.arange(8) + k + 0.5)
    torch.save(made, path, pickle_protocol=protocol)
    same(read(path).layers[0], made)


def test_without_checksums(path):
    made = state(lambda k: torch.arange(8) + k + 0.5)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(made, path)
    finally:
        torch.serialization.set_crc32_options(True)
    stored = read(path)
    same(stored.layers[0], made)
    assert any("without checksums" in note for note in stored.notes)


def described(node):
    """A Machine's result as plain nested tuples, to compare two runs."""
    if isinstance(node, Tensor):
        return (node.storage.key, node.dtype, node.offset, node.shape, node.strides)
    if isinstance(node, Storage):
        return (node.key, node.dtype, node.count)
    if isinstance(node, Items):
        return tuple(map(described, node.flat))
    if isinstance(node, Call):
        func = node.func.path if node.func else None
        return (func, described(node.args), described(node.flat), described(node.state), described(node.items))
    if isinstance(node, list | tuple):
        return tuple(map(described, node))
    return getattr(node, "path", node)


def test_the_shortcut_changes_nothing(monkeypatch):
    base = torch.arange(70_000, dtype=torch.float32)
    made = {}
    for k in range(300):
        made[f"l{k}.running_mean"] = base[k : k + 4]
        made[f"l{k}.running_var"] = torch.ones(4 if k % 2 else 300, dtype=random.Random(k).choice(FLOATS))
        made[f"l{k}.weight"] = nn.Parameter(base[200 * k :][:70])
        made[f"l{k}.num_batches_tracked"] = torch.tensor(k)
        made[f"l{k}.conv"] = torch.ones(2, 3, requires_grad=True)
    buffer = io.BytesIO()
    torch.save({"a": made, "b": made, "c": copy.copy(made)}, buffer)
    archive = zipfile.ZipFile(buffer)
    data = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    short = Machine(data)
    fast = described(run(short))
    long = Machine(data)
    long.awaited = None
    assert fast == described(run(long))
    assert short.memoized == long.memoized
    assert list(short.storages) == list(long.storages)


def test_the_shortcut_stops_where_another_function_is_called():
    archive = zipfile.ZipFile(io.BytesIO(build.many_layers(3)))
    data = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    call = b"h\0((h\1"
    calls = data.split(call)
    odd = call.join(calls[:10]) + b"h\4((h\1" + call.join(calls[10:])
    fast, long = Machine(odd), Machine(odd)
    long.awaited = None
    found = described(run(fast))
    assert found == described(run(long))
    assert [part[0] for part in found[1::2]].count("collections.OrderedDict") == 1


def test_what_the_memo_does_not_keep_is_never_asked_for():
    for protocol in range(6):
        shared = ["x"] * 3
        made = [(shared, {"k": shared, 1: (shared,)}, i, str(i) * 3) for i in range(400)] * 2
        data = pickle.dumps(made, protocol)
        assert described(run(Machine(data))) == described_plain(made)


def described_plain(node):
    if isinstance(node, dict):
        return tuple(described_plain(part) for pair in node.items() for part in pair)
    return tuple(map(described_plain, node)) if isinstance(node, list | tuple) else node


def test_num_batches_tracked_and_what_is_unknown(path):
    bn = nn.BatchNorm2d(5)
    bn.num_batches_tracked += 41
    torch.save(nn.Sequential(bn).state_dict(), path)
    layer = read(path).layers[0]
    assert msgspec.structs.asdict(layer) | dict.fromkeys(FIELDS) == {
        "path": "0", "kind": "BatchNorm", "num_features": 5, "eps": None, "momentum": None, "affine": True,
        "track_running_stats": True, "training": None, "num_batches_tracked": 41,
        "dtype": "float32", "trainable": None, **dict.fromkeys(FIELDS),
    }  # fmt: skip


def test_the_garbage_collector_is_left_as_found(path):
    import gc

    torch.save(state(lambda _: torch.ones(3)), path)
    read(path)
    assert gc.isenabled()
    gc.disable()
    try:
        read(path)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_layer_of_a_million_channels(path):
    made = collections.OrderedDict(state(lambda k: torch.arange(1_000_000) + k / 2))
    for write in (lambda: torch.save(made, path), lambda: save_file(dict(made), path)):
        write()
        same(read(path).layers[0], made)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_checkpoint_that_was_zipped_anew(path, method):
    made = state(lambda k: torch.arange(3000) + k / 2)
    buffer = io.BytesIO()
    torch.save(made, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    same(read(path).layers[0], made)
    same(read(path).layers[0], torch.load(path, weights_only=True))


def test_a_legacy_view_of_a_storage(path):
    """As torch.load has it: the view's own offset comes on top of the tensor's."""
    views = {field: build.view(1, 3, shape=(3,), key=str(k)) for k, field in enumerate(FIELDS)}
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(build.legacy(build.state(**views)))
    expected = torch.load(path, weights_only=True)
    assert expected[f"{build.LAYER}.running_var"].tolist() == [5.0, 6.0, 7.0]
    same(read(path).layers[0], expected, build.LAYER)


def large(kind, path, layers):
    """A state dict of many layers, as the writers of each kind of file spell it."""
    made = {}
    together = torch.randn(8 * layers)
    for k in range(layers):
        for place, field in enumerate(FIELDS):
            view = together[8 * k + 2 * place :][:2]
            made[f"layers.{k}.bn.{field}"] = view if kind == "shared" else view.clone()
        made[f"layers.{k}.bn.num_batches_tracked"] = torch.tensor(k)
    if kind == "safetensors":
        save_file(made, path)
    else:
        torch.save(made, path, _use_new_zipfile_serialization=kind != "legacy")
    return made


@pytest.mark.parametrize("kind", ["shared", "zip", "legacy", "safetensors"])
def test_thousands_of_layers(path, kind):
    made = large(kind, path, 3000)
    layers = {layer.path: layer for layer in read(path).layers}
    assert len(layers) == 3000
    for k in (0, 1, 777, 2999):
        layer = layers[f"layers.{k}.bn"]
        same(layer, made, f"layers.{k}.bn")
        assert layer.num_batches_tracked == k


@pytest.mark.parametrize("apart", [False, True])
def test_a_hundred_thousand_layers(path, apart):
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(build.many_layers(100_000, apart=apart))
    layers = read(path).layers
    assert len(layers) == 100_000
    same(layers[77_777], {f"bn.{field}": torch.tensor([4.0 * 77_777 + k]) for k, field in enumerate(FIELDS)})
