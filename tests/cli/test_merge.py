"""``stats --parts`` in one and in several processes, and ``merge``, by the real command line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from processes import ended

NETS = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8))
"""
DATA = """
import torch
from torch.utils.data import Dataset

class Images(Dataset):
    def __len__(self):
        return 50

    def __getitem__(self, index):
        return {"pixel_values": torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(index)), "label": index}

def of_rank(rank, world_size):
    for index in range(rank, 10, world_size):
        yield torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(index))

def stream():
    yield from of_rank(0, 1)

def nothing(rank, world_size):
    return iter(())
"""


@pytest.fixture
def work(run, tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "data.py").write_text(DATA)
    torch.save(torch.randn(50, 3, 8, 8), tmp_path / "batch.pt")
    threads = torch.get_num_threads()

    def share(rank, world_size, *arguments, batch="data.py:Images"):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(world_size))
        return run("stats", "nets.py:make", "--batch", batch, "--batch-size", "4", *arguments)

    yield share
    torch.set_num_threads(threads)


@pytest.mark.parametrize("batch", ["data.py:Images", "batch.pt"])
def test_two_processes_and_one_give_the_same_report(work, run, batch):
    assert work(0, 1, "--parts", "one", batch=batch)[0] == 0
    for rank in (1, 0):
        code, out, err = work(rank, 2, "--parts", "two", batch=batch)
        assert (code, out) == (0, "")
        assert bool(err) == (rank == 0)
    assert "rank 0 of 2: 24 of 24 images, " in err
    assert err.endswith("rank 0 is done; when all are: bninspect merge two\n")
    one, two = (run("merge", folder, "--format", "json", "--channels") for folder in ("one", "two"))
    assert one == two
    report = json.loads(one[1])
    assert (report["num_images"], report["source"]["batch"]) == (50, batch)


def test_torchrun_starts_the_processes(work, run, python, tmp_path):
    work(0, 1, "--parts", "one")
    environment = {name: text for name, text in os.environ.items() if name not in {"RANK", "WORLD_SIZE"}}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    torchrun = [*python, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "bninspect"]
    stats = ["stats", "nets.py:make", "--batch", "data.py:Images", "--batch-size", "4", "--parts", "two"]
    done = ended([*torchrun, *stats], cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "two").iterdir())) == 2
    one, two = (json.loads(run("merge", folder, "--format", "json", "--channels")[1]) for folder in ("one", "two"))
    del one["tool"], two["tool"]  # it names what this process has imported, for other tests as well
    assert one == two


def test_a_function_of_rank_and_world_size_gives_each_its_share(work, run):
    for rank in range(3):
        assert work(rank, 3, "--parts", "p", batch="data.py:of_rank")[0] == 0
    report = json.loads(run("merge", "p", "--format", "json")[1])
    assert report["num_images"] == 50
    code, _, err = work(0, 2, "--parts", "q", batch="data.py:stream")
    assert code == 2
    assert "a generator cannot be cut into 2 shares: give a map-style data set, or a function that takes rank" in err


def test_an_empty_share_is_said_and_only_all_of_them_are_an_error(work, run):
    code, out, err = work(11, 12, "--parts", "p", batch="data.py:of_rank")
    assert (code, out, err) == (0, "", "the share of rank 11 is empty: its part holds no image\n")
    said = [work(rank, 12, "--parts", "p", batch="data.py:of_rank")[2] for rank in range(11)]
    assert [rank for rank, text in enumerate(said) if "is empty" in text] == [10]
    assert json.loads(run("merge", "p", "--format", "json")[1])["num_images"] == 50
    for rank in range(2):
        code, _, err = work(rank, 2, "--parts", "q", batch="data.py:nothing")
        assert (code, f"the share of rank {rank} is empty" in err) == (0, True)
    code, out, err = run("merge", "q")
    assert (code, out) == (2, "")
    assert "no part holds an image: the data gave none" in err
    assert work(0, 1, "--parts", "r", batch="data.py:nothing")[0] == 2


def test_a_snapshot_of_the_merged_report(work, run):
    work(0, 1, "--parts", "p")
    assert run("merge", "p", "--snapshot", "bn.json", "--update")[0] == 0
    assert run("merge", "p", "--snapshot", "bn.json")[0] == 0
    work(0, 1, "--parts", "q", "--mode", "train")
    assert run("merge", "q", "--snapshot", "bn.json")[0] == 1


def test_missing_parts_are_named_and_partial_reports_the_rest(work, run):
    work(1, 2, "--parts", "p")
    code, out, err = run("merge", "p")
    assert (code, out) == (2, "")
    assert "24 of 50 images are missing (0 to 23, counted from 0)" in err
    code, out, _ = run("merge", "p", "--partial")
    assert code == 0
    assert "Note: not the whole: 24 of 50 images are missing" in out


def test_a_sample_shows_the_error_of_its_means(work, run):
    work(0, 1, "--parts", "p", "--sample", "20")
    assert "mean_error" in run("merge", "p", "--channels")[1]
    code, _, err = run("stats", "nets.py:make", "--batch", "batch.pt", "--sample", "20")
    assert code == 2
    assert "add --parts DIR" in err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--format", "json"), "--format is about one: give it to bninspect merge"),
        (("--channels",), "--channels is about one: give it to bninspect merge"),
        (("--max-batches", "3"), "--max-batches is about one: leave it out"),
    ],
)
def test_what_is_about_a_report_is_for_merge(work, arguments, text):
    code, out, err = work(0, 1, "--parts", "p", *arguments)
    assert (code, out) == (2, "")
    assert text in err


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("x", "2"), ("0", "0"), ("-1", "2")])
def test_ranks_that_are_none_are_refused(work, rank, size):
    code, _, err = work(rank, size, "--parts", "p")
    assert code == 2
    assert "a rank is a number from 0" in err


def test_random_batches_and_folders_that_are_files_are_refused(work, tmp_path):
    assert "a random batch is made up" in work(0, 1, "--input", "3,8,8", "--parts", "p", batch="random")[2]
    (tmp_path / "file").write_text("")
    code, _, err = work(0, 1, "--parts", "file")
    assert code == 2
    assert "the folder file cannot be made: File exists" in err


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("OMP_NUM_THREADS", "many", "OMP_NUM_THREADS is 'many': a number of threads was expected"),
        ("OMP_NUM_THREADS", "0", "OMP_NUM_THREADS is '0'"),
        ("RANK", "1" * 5000, "a rank is a number from 0"),
    ],
)
def test_what_the_environment_says_is_refused_in_a_sentence(run, tmp_path, monkeypatch, *, name, value, words):
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\nmodel = nn.BatchNorm2d(3)\ndata = torch.ones(4, 3, 2, 2)\n"
    )
    monkeypatch.setenv(name, value)
    code, out, err = run("stats", "net.py:model", "--batch", "net.py:data", "--parts", "run")
    assert (code, out) == (2, "")
    assert words in err


def test_of_threads_on_nested_levels_the_first_counts(work, run, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2,4")
    assert work(0, 1, "--parts", "p")[0] == 0
    assert torch.get_num_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    code, _, err = work(0, 1, "--parts", "p")
    assert (code, "threads is 2, and 4 in this run" in err) == (2, True)


def test_a_class_that_makes_the_data(run, tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\nfrom torch.utils.data import IterableDataset\nmodel = nn.BatchNorm2d(3)\n"
        "class Data(IterableDataset):\n    def __iter__(self):\n        return iter([torch.ones(2, 3, 2, 2)] * 3)\n"
    )
    code, out, _ = run("stats", "net.py:model", "--batch", "net.py:Data")
    assert (code, "6 images (3 pieces)" in out) == (0, True)
    assert run("stats", "net.py:model", "--batch", "net.py:Data", "--parts", "run")[0] == 0
    assert "6 images" in run("merge", "run")[1]
