"""Data that cannot be cut, that raise or are empty, and parts that no run has written."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset

import bninspect
from bninspect import codec
from bninspect.errors import InputError, SourceError

MARK = "bninspect.part"


@pytest.fixture
def model():
    return nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2))


class Batches(Dataset):
    """Its items are whole batches."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return torch.full((4, 3, 6, 6), float(index)) + torch.arange(4.0).view(4, 1, 1, 1) / 10


def test_a_loader_of_whole_batches_is_a_stream_of_one_process(model, tmp_path):
    loader = DataLoader(Batches(), batch_size=None)
    bninspect.population(model, loader, tmp_path / "one")
    merged = bninspect.merge(tmp_path / "one")
    expected = bninspect.stats(model, torch.cat([Batches()[index] for index in range(5)]))
    assert merged.num_images == 20
    assert merged.layers[0].channels.mean == pytest.approx(expected.layers[0].channels.mean)
    assert merged.layers[0].channels.var == pytest.approx(expected.layers[0].channels.var)
    with pytest.raises(InputError, match=r"items are whole batches \(batch_size=None\) cannot be cut into 2 shares"):
        bninspect.population(model, loader, tmp_path / "two", rank=0, world_size=2)


class Noisy(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        return index + torch.randn(3, 6, 6)


def test_dropout_draws_the_same_with_and_without_workers(model, tmp_path):
    texts = set()
    for workers in (0, 2):
        folder = tmp_path / str(workers)
        bninspect.population(model, Noisy(), folder, batch_size=4, mode="train", workers=workers)
        texts.add(codec.encode(bninspect.merge(folder)))
    assert len(texts) == 1


def test_what_raises_is_said_with_its_images(model, tmp_path):
    class Bad(Noisy):
        def __getitem__(self, index):
            if index == 10:  # none of those that tell one data set from another
                raise ValueError("no such picture")
            return super().__getitem__(index)

    with pytest.raises(SourceError, match="the data raised ValueError at images 8 to 11: no such picture"):
        bninspect.population(model, Bad(), tmp_path / "set", batch_size=4)

    def stream():
        yield torch.randn(2, 3, 6, 6)
        raise OSError("the network is gone")

    with pytest.raises(SourceError, match="the data raised OSError at piece 1: the network is gone"):
        bninspect.population(model, stream(), tmp_path / "stream")
    with pytest.raises(InputError, match="the data are empty"):
        bninspect.population(model, iter(()), tmp_path / "empty")


def changed(part, change):
    """The part with another header or other vectors; ``change`` is given both."""
    with safe_open(part, framework="np") as file:
        header = json.loads(file.metadata()[MARK])
        vectors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
    change(header, vectors)
    save_file(vectors, part, {MARK: json.dumps(header)})


def node(number, value):
    """The first node of a header with another number."""

    def change(header, _):
        header["nodes"][0][number] = value

    return change


def shorter(header, vectors):
    name = next(name for name in vectors if name.endswith(".mean"))
    vectors[name] = vectors[name][:-1]


def missing(header, vectors):
    del vectors[next(name for name in vectors if name.endswith(".M2"))]


def endless(header, vectors):
    name = next(name for name in vectors if name.endswith(".ends"))
    vectors[name] = vectors[name] + (1 << 60)


def unknown(header, _):
    header["orders"][0][0] = "nowhere"


def text(header, _):
    header["rank"] = "first"


HOSTILE = {
    "a level without end": node(0, 10**9),
    "a level below zero": node(0, -1),
    "an index without end": node(1, 1 << 62),
    "images below zero": node(2, -4),
    "an order that is not there": node(3, [7]),
    "a vector that is short": shorter,
    "a vector that is missing": missing,
    "a run without end": endless,
    "a layer that is not there": unknown,
    "a header of other types": text,
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_part_that_no_run_has_written_is_refused(model, tmp_path, change):
    wide = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64))
    bninspect.population(wide, torch.randn(12, 3, 6, 6), tmp_path, batch_size=4)
    (part,) = tmp_path.glob("part-*")
    changed(part, lambda header, vectors: None)
    assert bninspect.merge(tmp_path).num_images == 12
    changed(part, change)
    with pytest.raises(SourceError, match=f"the part .*{part.name} cannot be read"):
        bninspect.merge(tmp_path)
