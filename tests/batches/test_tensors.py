"""Where batches come from: real files of every kind, and what is said of the others."""

from __future__ import annotations

import argparse
import collections
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import TensorDataset

from bninspect import _plugins, batches
from bninspect.errors import SourceError

X = torch.arange(24.0).reshape(2, 3, 2, 2)
TYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
]  # fmt: skip


def load(text, **options):
    source, value = batches.find(str(text), _plugins.plugins("batches", "SCHEME"))
    return source.load(value, batches.BatchOptions(**options))


@pytest.mark.parametrize(
    ("content", "key", "element"),
    [
        (X, None, None),
        (torch.nn.Parameter(X), None, None),
        ([X, torch.tensor([1, 2])], None, "0"),
        ((torch.tensor([1, 2]), X), "1", "1"),
        ({"image": X, "label": torch.tensor([1, 2])}, None, "image"),
        ({"a": X, "b": X * 2}, "a", "a"),
        ({"x": X, "other": X * 2}, None, "x"),
        ({"anything": X}, None, "anything"),
    ],
    ids=str,
)
def test_pt_files(tmp_path, content, key, element):
    path = tmp_path / "batch.pt"
    torch.save(content, path)
    batch = load(path, key=key)
    assert torch.equal(batch.data, X)
    assert (batch.kind, batch.element, batch.num_images, batch.synthetic) == ("pt", element, 2, False)


@pytest.mark.parametrize(
    ("content", "key", "element"),
    [
        (TensorDataset(X, torch.ones(2)), None, "0"),
        (X.numpy(), None, None),
        (X.numpy().astype(">f8"), None, None),
        (np.asfortranarray(X.numpy()), None, None),
        (X.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), None, None),
        ({"image": X.numpy(), "label": np.int64(3), "loss": np.float32(0.5)}, None, "image"),
        ({"images": [X, X * 2], "names": ["a", "b"]}, None, "images.0"),
        ([{"image": X, "label": torch.ones(2)}, {"image": X * 2}], None, "0.image"),
        ({"train": {"x": X, "y": torch.ones(2)}, "epoch": 3}, None, "train.x"),
        ({"a": {"b.c": [X * 2, X]}, "d": X * 3}, "a.b.c.1", "a.b.c.1"),
        ({"a": (torch.ones(2), X), "b": X * 3}, "a", "a.0"),
        (collections.OrderedDict(x=X, y=torch.ones(2)), None, "x"),
        (collections.defaultdict(list, x=X), None, "x"),
        ({0: X, "meta": argparse.Namespace(lr=0.1)}, None, "0"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("zipped", [True, False])
def test_what_a_pt_file_may_hold(tmp_path, content, key, element, zipped):
    path = tmp_path / "batch.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    batch = load(path, key=key)
    assert batch.element == element
    if key == "a":
        assert torch.equal(batch.data, torch.ones(2))
    else:
        torch.testing.assert_close(batch.data, X, rtol=0, atol=0, check_dtype=False)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_type_of_element_is_as_it_was_saved(tmp_path, dtype):
    made = (X - 3).to(dtype)
    for name, save in (("a", torch.save), ("b", lambda x, path: save_file({"x": x}, path))):
        if name == "b" and dtype in (torch.float8_e4m3fnuz, torch.float8_e5m2fnuz):
            continue
        save(made, tmp_path / name)
        batch = load(tmp_path / name)
        assert batch.data.dtype == dtype
        assert torch.equal(batch.data.view(torch.uint8), made.view(torch.uint8))


def test_legacy_streams_and_other_names(tmp_path):
    torch.save(X, tmp_path / "batch.anything", _use_new_zipfile_serialization=False)
    assert torch.equal(load(tmp_path / "batch.anything").data, X)
    assert torch.equal(load(f"file:{tmp_path / 'batch.anything'}").data, X)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", ">f4"])
def test_npy_files(tmp_path, dtype):
    np.save(tmp_path / "batch.npy", X.numpy().astype(dtype))
    batch = load(tmp_path / "batch.npy")
    assert batch.kind == "npy"
    torch.testing.assert_close(batch.data.float(), X)


def test_npz_files(tmp_path):
    np.savez_compressed(tmp_path / "batch.npz", images=X.numpy(), labels=np.array([1, 2]))
    batch = load(tmp_path / "batch.npz")
    assert (batch.kind, batch.element) == ("npz", "images")
    assert torch.equal(batch.data, X)


def test_safetensors_files(tmp_path):
    save_file({"x": X.bfloat16()}, tmp_path / "batch.safetensors")
    batch = load(tmp_path / "batch.safetensors")
    assert (batch.kind, batch.element, batch.data.dtype) == ("safetensors", "x", torch.bfloat16)


def test_random_batches_are_seeded_and_labelled():
    batch = load("random", shapes=((3, 4, 4),), size=5)
    again = load("random:normal", shapes=((3, 4, 4),), size=5)
    assert torch.equal(batch.data, again.data)
    assert (batch.synthetic, batch.num_images, tuple(batch.data.shape)) == (True, 5, (5, 3, 4, 4))
    assert not torch.equal(batch.data, load("random", shapes=((3, 4, 4),), size=5, seed=1).data)
    assert load("random:zeros", shapes=((3, 4, 4),)).data.abs().max() == 0
    uniform = load("random:uniform", shapes=((3, 4, 4),)).data
    assert 0 <= uniform.min() < uniform.max() < 1


def test_random_batches_of_several_inputs():
    ((a, b),) = load("random", shapes=((3, 4), (7,)), dtypes=("float16", "int64"), size=2).data
    assert (a.shape, a.dtype, b.shape, b.dtype) == ((2, 3, 4), torch.float16, (2, 7), torch.int64)


def write(path, content):
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    return path


class Payload:
    """Would leave a file behind if anything in the pickle were run."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def test_nothing_in_a_file_is_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    canary = tmp_path / "canary"
    with pytest.raises(SourceError, match=r"holds an object of posix\.system, and bninspect runs nothing") as refusal:
        load(write(tmp_path / "batch.pt", Payload(canary)))
    assert "weights_only" not in str(refusal.value)
    assert torch.equal(load(write(tmp_path / "batch.pt", {"x": X, "y": Payload(canary)})).data, X)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"hello, this is text", "is no batch that bninspect reads"),
        (b"PK\x03\x04 and nothing more", "its zip directory is missing"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'", "its array's header is damaged or cut short"),
        (b"\x80\x02}q\x00.", "it is a pickle, but not one of torch.save"),
        ("text", "holds a str: a tensor was expected"),
        ({"a": 1, "b": "x"}, "holds no tensor"),
        ([], "holds no tensor"),
        ({"a": X, "b": X}, "say which is the input by --batch-key, one of a, b"),
        (X.to_sparse(), "sparse"),
    ],
    ids=str,
)
def test_files_that_hold_no_batch(tmp_path, content, message):
    with pytest.raises(SourceError, match=message):
        load(write(tmp_path / "batch.pt", content))


def test_truncated_files(tmp_path):
    torch.save(X, tmp_path / "whole.pt")
    np.save(tmp_path / "whole.npy", X.numpy())
    save_file({"x": X}, tmp_path / "whole.safetensors")
    for name in ("whole.pt", "whole.npy", "whole.safetensors"):
        content = (tmp_path / name).read_bytes()
        for length in range(1, len(content), 97):
            (tmp_path / "part").write_bytes(content[:length])
            with pytest.raises(SourceError, match="part"):
                load(tmp_path / "part")


def test_missing_keys_folders_and_pipes(tmp_path):
    torch.save({"a": X, "b": X}, tmp_path / "batch.pt")
    with pytest.raises(SourceError, match="holds no tensor 'c': it holds a, b"):
        load(tmp_path / "batch.pt", key="c")
    with pytest.raises(SourceError, match="there is no such file"):
        load(tmp_path / "missing.pt")
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(SourceError, match="it is a folder, and only regular files are read"):
        load(tmp_path / "folder.pt")
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(SourceError, match="it is a pipe, and only regular files are read"):
        load(tmp_path / "pipe.pt")
    np.save(tmp_path / "objects.npy", np.array([{}, []], dtype=object))
    with pytest.raises(SourceError, match="holds Python objects"):
        load(tmp_path / "objects.npy")
    torch.save(X, tmp_path / "one.pt")
    with pytest.raises(SourceError, match="holds a single tensor"):
        load(tmp_path / "one.pt", key="a")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("random", {}, "add --input C,H,W"),
        ("random:pink", {"shapes": ((3,),)}, "random:pink is unknown"),
        ("random", {"shapes": ((3,),), "dtypes": ("float33",)}, "no torch dtype"),
        ("random", {"shapes": ((3,),), "dtypes": ("float32", "float32")}, "2 --input-dtype"),
        ("something", {}, "is no batch"),
    ],
)
def test_what_is_no_batch_is_said(text, options, message):
    with pytest.raises(SourceError, match=message):
        load(text, **options)
