"""Batches from images, folders and the user's own loaders: which tensors come, in which order, and what is refused."""
# ruff: noqa: E501 - one case, one line

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import ResNet18_Weights

from bninspect.batches import BatchOptions, images, python
from bninspect.errors import SourceError

NAME = "ResNet18_Weights.IMAGENET1K_V1"
LOADERS = """
import torch
from torch.utils.data import DataLoader, TensorDataset
x = torch.arange(10 * 3.0).view(10, 3)
tensor = x
pair = (x, torch.zeros(10))
loader = DataLoader(TensorDataset(x, torch.arange(10)), batch_size=4)
dicts = [{"image": x[:4], "label": torch.zeros(4)}, {"image": x[4:], "label": torch.zeros(6)}]
named = {"first": x, "second": x + 1}
empty = []
number = 3
words = ["a", "b"]
def make(): return iter([x[:5], x[5:]])
def generator():
    yield x[:5]
    yield x[5:]
def broken():
    yield x[:5]
    raise RuntimeError("the disk \\x1b[2J is gone")
def fails(): raise SystemExit(3)
def endless():
    while True: yield x
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "data.py").write_text(LOADERS)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("photos/b/2.png", "photos/a/1.jpg", "photos/a/0.PNG", "photos/3.bmp"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    (tmp_path / "photos/notes.txt").write_text("no image")
    return tmp_path


def joined(batch):
    return batch.data if isinstance(batch.data, torch.Tensor) else torch.cat(list(batch.data))


@pytest.mark.parametrize("name", ["tensor", "pair", "loader", "dicts", "make", "generator"])
def test_what_a_loader_gives(folder, name):
    batch = python.load(f"data.py:{name}", BatchOptions())
    torch.testing.assert_close(joined(batch), torch.arange(30.0).view(10, 3), rtol=0, atol=0)


def test_which_element_is_said(folder):
    assert python.load("data.py:loader", BatchOptions()).element == "0"
    assert python.load("data.py:dicts", BatchOptions()).element == "image"
    assert joined(python.load("data.py:named", BatchOptions(key="second")))[0, 0] == 1


def test_an_endless_loader_is_stopped(folder):
    assert len(joined(python.load("data.py:endless", BatchOptions(max_batches=3)))) == 30


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("empty", "gave no piece"), ("number", "is a int"), ("words", "str"), ("fails", "raised SystemExit"),
        ("broken", r"raised RuntimeError: the disk \\x1b\[2J is gone"), ("absent", "has no 'absent'"), ("named", "--batch-key"),
    ],
)  # fmt: skip
def test_what_a_loader_cannot_give_is_said(folder, name, text):
    with pytest.raises(SourceError, match=text):
        joined(python.load(f"data.py:{name}", BatchOptions()))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_tree_of_images_in_the_order_of_its_paths(folder, workers):
    batch = images.load("photos", BatchOptions(transforms=NAME, workers=workers, size=3))
    pieces = list(batch.data)
    assert [len(piece) for piece in pieces] == [3, 1]
    assert batch.num_images == 4
    assert NAME in batch.kind
    transform = ResNet18_Weights.IMAGENET1K_V1.transforms()
    names = ("3.bmp", "a/0.PNG", "a/1.jpg", "b/2.png")
    expected = torch.stack([transform(Image.open(folder / "photos" / name).convert("RGB")) for name in names])
    torch.testing.assert_close(torch.cat(pieces), expected, rtol=0, atol=0)


def test_one_image_and_the_first_pieces(folder):
    assert joined(images.load("photos/3.bmp", BatchOptions(transforms=NAME))).shape == (1, 3, 224, 224)
    assert len(joined(images.load("photos", BatchOptions(transforms=NAME, size=1, max_batches=2)))) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named(folder, workers):
    (folder / "photos/a/4.png").write_bytes(b"nope")
    with pytest.raises(SourceError, match=r"a/4\.png cannot be read: UnidentifiedImageError"):
        joined(images.load("photos", BatchOptions(transforms=NAME, workers=workers)))


@pytest.mark.parametrize(
    ("value", "name", "text"),
    [
        ("photos", None, "--transforms NAME"), ("photos", "Nope_Weights.X", "no transforms"), ("photos/none.png", NAME, "No such file"),
        (".git", NAME, "No such file"), ("empty", NAME, "holds no images"), ("/dev/null", NAME, "no regular file"), ("a\0.png", NAME, "name"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused(folder, value, name, text):
    (folder / "empty").mkdir()
    with pytest.raises(SourceError, match=text):
        images.load(value, BatchOptions(transforms=name))


def test_through_the_command_line(folder, run):
    (folder / "data.py").write_text(LOADERS)
    code, out, err = run("stats", "--batch", f"{folder}/data.py:loader", "--format", "json", "--channels")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert (report["num_images"], report["num_pieces"], report["source"]["batch_element"]) == (10, 3, "0")
    assert report["layers"][0]["channels"]["mean"] == [13.5, 14.5, 15.5]
    words = ("--transforms", NAME, "--format", "json", "--batch-size", "3")
    code, out, _ = run("stats", "--batch", str(folder / "photos"), *words)
    report = json.loads(out)
    assert (code, report["num_images"], report["num_pieces"]) == (0, 4, 2)
    code, _, err = run("stats", "--batch", str(folder / "photos"))
    assert code == 2
    assert "--transforms" in err
