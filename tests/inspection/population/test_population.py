"""Shares of a data set in parts, and the merged report: the same for any number of processes, and that of stats."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from fingerprint import fingerprint
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import bninspect
from bninspect import codec
from bninspect.errors import BNInspectError, InputError, SourceError

N = 45


@pytest.fixture(scope="module")
def images():
    return (
        torch.randn(N, 3, 8, 8, generator=torch.Generator().manual_seed(1)) + torch.arange(N)[:, None, None, None] / 9
    )


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)
    )


class Noisy(Dataset):
    """A data set that draws random numbers for each image, as augmentations do."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index] + torch.randn(3, 1, 1) * np.random.rand(), index


def first(step):
    return step[0]


def measured(model, data, folder, world_size=1, **settings):
    settings = {"batch_size": 4, **settings}
    for rank in reversed(range(world_size)):
        bninspect.population(model, data, folder, rank=rank, world_size=world_size, **settings)
    return bninspect.merge(folder)


def test_the_report_is_that_of_stats(model, images, tmp_path):
    merged, once = measured(model, images, tmp_path, 3), bninspect.stats(model, images)
    assert merged.num_images == once.num_images == N
    assert merged.num_pieces == 12
    for got, want in zip(merged.layers, once.layers, strict=True):
        assert (got.path, got.count, got.calls, got.dtype) == (want.path, want.count, want.calls, want.dtype)
        for name in ("mean", "var", "between_image_var", "d", "r", "z", "min", "max", "zero_fraction"):
            np.testing.assert_allclose(getattr(got.channels, name), getattr(want.channels, name), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_same_bytes_for_any_number_of_processes(model, images, tmp_path, mode):
    """With dropout and augmentations at work: random numbers belong to the chunk, not to the process."""
    data = Noisy(images)
    texts = {
        codec.encode(measured(model, data, tmp_path / str(size), size, pick=first, mode=mode))
        for size in (1, 2, 3, 7, 20)
    }
    assert len(texts) == 1


def test_workers_that_read_change_no_byte(model, images, tmp_path):
    data = Noisy(images)
    alone = measured(model, data, tmp_path / "0", pick=first)
    read = measured(model, DataLoader(data, num_workers=2), tmp_path / "2", pick=first)
    assert codec.encode(alone) == codec.encode(read)


def test_the_model_and_the_random_numbers_are_as_they_were(model, images, tmp_path):
    before = fingerprint(model)
    state = torch.get_rng_state()
    measured(model, Noisy(images), tmp_path, 2, pick=first)
    assert fingerprint(model) == before
    assert torch.equal(torch.get_rng_state(), state)


class Failing(Dataset):
    def __init__(self, images, bad):
        self.images, self.bad, self.read = images, bad, []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if index == self.bad:
            raise OSError("gone")
        self.read.append(index)
        return self.images[index]


def test_a_process_that_failed_goes_on_from_its_part(model, images, tmp_path):
    whole = codec.encode(measured(model, images, tmp_path / "whole", 2))
    data = Failing(images, bad=13)
    with pytest.raises(SourceError, match="the data raised OSError at images 12 to 15: gone"):
        measured(model, data, tmp_path / "parts", 2)
    with pytest.raises(InputError, match=r"12 of 45 images are missing \(12 to 23"):
        bninspect.merge(tmp_path / "parts")
    data.bad, data.read = None, []
    assert codec.encode(measured(model, data, tmp_path / "parts", 2)) == whole
    probes = {44 * k // 7 for k in range(8)}
    assert set(data.read) - probes == set(range(12, 24)) - probes


@pytest.mark.parametrize("sizes", [(3, 2), (1, 4), (2, 3, 2)])
def test_another_number_of_processes_takes_over_what_is_there(model, images, tmp_path, sizes):
    whole = codec.encode(measured(model, images, tmp_path / "whole"))
    for bad, size in zip((25, 37, None), (*sizes, sizes[-1])[-3:], strict=True):
        for rank in range(size):
            try:
                bninspect.population(
                    model, Failing(images, bad), tmp_path / "p", rank=rank, world_size=size, batch_size=4
                )
            except SourceError:
                assert bad is not None
    assert codec.encode(bninspect.merge(tmp_path / "p")) == whole


def test_a_part_is_written_while_it_is_made(model, images, tmp_path):
    seen = []

    def look(progress):
        if progress.written and progress.images < N:
            report = bninspect.merge(tmp_path, partial=True)
            seen.append((progress.images, report.num_images, report.notes))

    bninspect.population(model, images, tmp_path, batch_size=8, every=0, on_chunk=look)
    assert [images for images, _, _ in seen] == [images for _, images, _ in seen] == [8, 16, 24, 32, 40]
    assert "not the whole: 37 of 45 images are missing (8 to 44, counted from 0)" in seen[0][2]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"mode": "train"}, "mode is 'eval', and 'train'"),
        ({"batch_size": 5}, "batch_size is 4, and 5"),
        ({"layer": "1"}, "layer is None, and '1'"),
        ({"sample": 12}, "images"),
    ],
)
def test_parts_of_other_settings_are_refused_before_any_work(model, images, tmp_path, change, named):
    measured(model, images, tmp_path)
    with pytest.raises(InputError, match=rf"part-g0-00000-of-00001.safetensors is of another run: .*{named}"):
        measured(model, images, tmp_path, **change)


def test_parts_of_another_model_and_other_data_are_refused(model, images, tmp_path):
    measured(model, images, tmp_path)
    with pytest.raises(InputError, match="the images differ"):
        measured(model, images.flip(0), tmp_path)
    model[1].running_mean += 1
    with pytest.raises(InputError, match="the values of the model differ"):
        measured(model, images, tmp_path)


def test_merge_names_parts_that_do_not_belong_together(model, images, tmp_path):
    measured(model, images, tmp_path / "a", 2)
    measured(model, images, tmp_path / "b", 3)
    stray = next((tmp_path / "b").glob("part-g0-00001*"))
    (tmp_path / "a" / stray.name).write_bytes(stray.read_bytes())
    with pytest.raises(
        InputError, match=r"part-g0-0000\d-of-0000\d.* and part-g0-0000\d-of-0000\d.* both hold chunk \d"
    ):
        bninspect.merge(tmp_path / "a")
    measured(model, images, tmp_path / "c", mode="train")
    other = next((tmp_path / "c").glob("part-*"))
    (tmp_path / "b" / other.name).write_bytes(other.read_bytes())
    with pytest.raises(InputError, match="is of another run: mode is"):
        bninspect.merge(tmp_path / "b")


def test_a_folder_without_parts_and_damaged_parts_are_refused(model, images, tmp_path):
    with pytest.raises(SourceError, match="there are no parts in"):
        bninspect.merge(tmp_path / "nothing")
    measured(model, images, tmp_path)
    part = next(tmp_path.glob("part-*"))
    whole = part.read_bytes()
    for content in (b"", whole[: len(whole) // 2], whole[:40] + b"\xff" * 40 + whole[80:]):
        part.write_bytes(content)
        with pytest.raises(SourceError, match=f"the part .*{part.name} cannot be read"):
            bninspect.merge(tmp_path)


def test_a_loader_is_taken_apart(model, images, tmp_path):
    loader = DataLoader(TensorDataset(images), batch_size=4, shuffle=True, drop_last=True)
    merged = measured(model, loader, tmp_path, 2, batch_size=None, pick=first)
    assert merged.num_images == N
    assert merged.notes == (
        "the DataLoader's RandomSampler is unused: images are taken by their index",
        "the DataLoader's drop_last is unused: no image is left out",
    )
    plain = DataLoader(TensorDataset(images), batch_size=4)
    assert measured(model, plain, tmp_path / "plain", batch_size=None, pick=first).notes == ()
    np.testing.assert_array_equal(
        merged.layers[0].channels.mean, measured(model, images, tmp_path / "t").layers[0].channels.mean
    )


class Streamed(IterableDataset):
    def __init__(self, images):
        self.images = images

    def __iter__(self):
        return iter(self.images)


def test_what_cannot_be_cut_is_for_one_process(model, images, tmp_path):
    for data in (DataLoader(Streamed(images), batch_size=4), (piece for piece in images.split(4)), images.split(4)):
        with pytest.raises(InputError, match="cannot be cut into 2 shares: give a map-style data set, or a function"):
            bninspect.population(model, data, tmp_path / "2", rank=0, world_size=2)
        with pytest.raises(InputError, match="a sample is drawn by the images' numbers"):
            bninspect.population(model, data, tmp_path / "2", sample=3)
    one = measured(model, DataLoader(Streamed(images), batch_size=4), tmp_path / "1")
    assert one.num_images == N
    cut = measured(model, images, tmp_path / "t")
    np.testing.assert_array_equal(one.layers[1].channels.var, cut.layers[1].channels.var)


def test_shares_that_a_function_makes_are_pooled_and_go_on(model, images, tmp_path):
    shares = [images[:20].split(4), images[20:].split(5)]
    stopped = iter([*shares[1][:2], "not a tensor"])
    with pytest.raises(BNInspectError):
        bninspect.population(model, stopped, tmp_path, rank=1, world_size=2, own_share=True)
    with pytest.raises(InputError, match="of 2 processes those of rank 0, 1 have not come to their end"):
        bninspect.merge(tmp_path)
    for rank in (1, 0):
        bninspect.population(model, list(shares[rank]), tmp_path, rank=rank, world_size=2, own_share=True)
    merged, once = bninspect.merge(tmp_path), bninspect.stats(model, images)
    assert merged.num_images == N
    for got, want in zip(merged.layers, once.layers, strict=True):
        np.testing.assert_allclose(got.channels.var, want.channels.var, rtol=1e-6)
    with pytest.raises(InputError, match="cannot be shared anew among 3"):
        bninspect.population(model, list(shares[0]), tmp_path, rank=0, world_size=3, own_share=True)


def test_a_sample_tells_how_far_off_its_means_are(model, images, tmp_path):
    merged = measured(model, images, tmp_path / "2", 2, sample=20, seed=3)
    again = measured(model, images, tmp_path / "1", sample=20, seed=3)
    assert codec.encode(merged) == codec.encode(again)
    assert "a sample of 20 of 45 images, seed 3; mean_error is for the whole" in merged.notes
    drawn = images[np.sort(np.random.default_rng(3).choice(N, 20, replace=False))]
    once = bninspect.stats(model, drawn)
    means = model.eval()[0](drawn).double().mean((2, 3)).detach()
    slow = means.std(0) / 20**0.5 * (1 - 20 / N) ** 0.5
    np.testing.assert_allclose(merged.layers[0].channels.mean_error, slow, rtol=1e-5)
    np.testing.assert_allclose(merged.layers[0].channels.mean, once.layers[0].channels.mean, rtol=1e-6)
    assert once.layers[0].channels.mean_error is None
    whole = measured(model, images, tmp_path / "all", sample=N)
    np.testing.assert_array_equal(whole.layers[0].channels.mean_error, 0)
    with pytest.raises(InputError, match="at least 2 images and at most the 45"):
        bninspect.population(model, images, tmp_path / "more", sample=46)


def test_layers_that_are_not_called_and_shared_layers_are_told(images, tmp_path):
    norm = nn.BatchNorm2d(3)
    model = nn.Sequential(norm, norm)
    model.unused = nn.BatchNorm2d(5)
    model.forward = lambda x: norm(norm(x))
    merged, once = measured(model, images, tmp_path, 2), bninspect.stats(model, images, batch_size=4)
    assert msgspec.structs.replace(merged, layers=(), source=once.source) == msgspec.structs.replace(once, layers=())
    assert merged.layers[0].calls == 2
