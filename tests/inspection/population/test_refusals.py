"""Data that cannot be cut, that raise or are empty, and parts that no run has written."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

import bninspect
from bninspect import codec
from bninspect.errors import InputError, SourceError
from bninspect.inspection.population.data import _reader

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


@pytest.mark.parametrize("factor", [1, 3])
def test_a_loader_reads_as_far_ahead_as_it_did(factor):
    loader = DataLoader(Subset(Batches(), range(5)), batch_size=1, num_workers=1, prefetch_factor=factor)
    asked = []
    chunks = (asked.append(index) or [index % 5] for index in range(40))
    pieces = _reader(loader.dataset, loader, 0, lambda step: step)(chunks)
    next(pieces)
    assert len(asked) == factor + 1
    pieces.close()


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


class StopError(Exception):
    """Stops a stream on its way."""


def stopped(loader, after):
    """The pieces of a loader until so many were read."""

    class Stopping:
        def __iter__(self):
            for number, piece in enumerate(loader):
                if number == after:
                    raise StopError("stop")
                yield piece

    return Stopping()


def test_a_shuffled_stream_is_gone_on_with_where_it_stopped(tmp_path):
    """Its order and its augmentations come from the random numbers of the process, which are those of each piece."""
    model = nn.Sequential(nn.BatchNorm2d(3))

    class Augmented(Batches):
        def __getitem__(self, index):
            return super().__getitem__(index) + torch.randn(1) / 10

    loader = DataLoader(Augmented(), batch_size=None, shuffle=True)
    bninspect.population(model, loader, tmp_path / "whole")
    with pytest.raises(SourceError, match="the data raised StopError at piece 3"):
        bninspect.population(model, stopped(loader, 3), tmp_path / "parts")
    torch.manual_seed(99)
    bninspect.population(model, loader, tmp_path / "parts")
    assert codec.encode(bninspect.merge(tmp_path / "parts")) == codec.encode(bninspect.merge(tmp_path / "whole"))


def test_a_stream_of_another_order_is_not_gone_on_with(tmp_path):
    model, pieces = nn.Sequential(nn.BatchNorm2d(3)), [Batches()[index] for index in range(5)]
    with pytest.raises(SourceError, match="piece 3"):
        bninspect.population(model, stopped(pieces, 3), tmp_path)
    for other in (pieces[::-1][1:], pieces[:2]):
        with pytest.raises(InputError, match="gives other pieces than when part-g0-00000-of-00001"):
            bninspect.population(model, other, tmp_path)
    bninspect.population(model, pieces, tmp_path)  # and nothing is lost
    assert bninspect.merge(tmp_path).num_images == 20


@pytest.mark.parametrize("make", [Subset, lambda data, part: torch.stack([data[i] for i in part])])
def test_the_share_of_a_process_may_be_a_data_set_or_a_tensor(tmp_path, make):
    model = nn.Sequential(nn.BatchNorm2d(3))
    images = [torch.full((3, 4, 4), float(index)) + torch.arange(4.0) for index in range(23)]
    for rank in range(2):
        share = make(images, range(rank, 23, 2))
        bninspect.population(model, share, tmp_path, rank=rank, world_size=2, batch_size=4, own_share=True)
    merged, expected = bninspect.merge(tmp_path), bninspect.stats(model, torch.stack(images))
    assert merged.num_images == 23
    assert merged.layers[0].channels.var == pytest.approx(expected.layers[0].channels.var)


class Drawing(nn.Module):
    """Draws by every generator there is."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.bn(x * (random.random() + np.random.rand()) + torch.rand(1))


def test_a_forward_draws_the_same_with_and_without_workers(tmp_path):
    texts = set()
    for workers in (0, 2):
        bninspect.population(Drawing(), Noisy(), tmp_path / str(workers), batch_size=4, workers=workers)
        texts.add(codec.encode(bninspect.merge(tmp_path / str(workers))))
    assert len(texts) == 1


class Exiting(Noisy):
    def __init__(self, error):
        self.error = error

    def __getitem__(self, index):
        if index == 10:
            raise self.error
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_words_of_what_a_worker_raised_are_kept(tmp_path, workers):
    with pytest.raises(SourceError, match="the data raised ValueError at images 8 to 11: no such picture"):
        bninspect.population(
            nn.Sequential(nn.BatchNorm2d(3)),
            Exiting(ValueError("no such picture")),
            tmp_path,
            batch_size=4,
            workers=workers,
        )


def test_data_that_leave_the_process_and_data_without_a_length(tmp_path):
    model = nn.Sequential(nn.BatchNorm2d(3))
    with pytest.raises(SourceError, match="the data raised SystemExit at images 8 to 11: enough"):
        bninspect.population(model, Exiting(SystemExit("enough")), tmp_path / "exit", batch_size=4)

    class Endless:
        def __getitem__(self, index):
            return torch.zeros(3, 4, 4)

    with pytest.raises(InputError, match="a Endless has no length"):
        bninspect.population(model, Endless(), tmp_path / "endless")


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


def value(name, value):
    def change(header, _):
        header[name] = value

    return change


def setting(name, value):
    def change(header, _):
        header["settings"][name] = value

    return change


def twice(header, _):
    header["layers"].append(header["layers"][0])


def order_twice(header, _):
    header["nodes"][0][3] *= 2


def negative(header, vectors):
    name = next(name for name in vectors if name.endswith(".count"))
    vectors[name] = -vectors[name]


def unknown_number(header, vectors):
    name = next(name for name in vectors if name.endswith(".count"))
    vectors[name] = vectors[name] * np.nan


def short_state(header, vectors):
    vectors["layer.0.running_mean"] = vectors["layer.0.running_mean"][:-1]


def endless_stream(header, _):
    header.update(chunks=None, world_size=10**11)
    header["settings"].update(num_images=None)


HOSTILE = {
    "no frame": value("frame", None),
    "chunks below zero": value("chunks", -3),
    "chunks without end": value("chunks", 10**15),
    "no chunks": value("chunks", None),
    "a rank that is not there": value("rank", 7),
    "images that are not there": setting("num_images", 3),
    "a sample of more than there is": setting("sample", 50),
    "images without end": node(2, 10**18 * 10),
    "a layer twice": twice,
    "an order twice": order_twice,
    "counts below zero": negative,
    "counts that are no number": unknown_number,
    "a stored vector that is short": short_state,
    "a stream of processes without end": endless_stream,
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
