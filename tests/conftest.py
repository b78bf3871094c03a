"""Fixtures that many tests share; what is slow to make is made once.

The process that only starts the workers reads this file as well, so that torch is imported where it is used.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
if os.environ.get("PYTEST_XDIST_WORKER"):  # one thread each: workers beside each other have no cores to spare
    gc.disable()  # until the tests are collected, see below
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.pop("COLUMNS", None)  # set for its own lines of progress; a test says how wide its terminal is
signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background starts with Ctrl-C ignored


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="write the golden files instead of comparing")


LONG = (  # files with tests that take seconds each
    "test_unchanged.py", "test_processes.py", "test_triton.py", "test_record.py", "test_contributing.py",
    "test_values.py", "test_merge.py", "test_pytest_plugin.py", "test_untouched.py", "test_hostile.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """Long tests first, lest one worker ends with one of them alone."""
    items.sort(key=lambda item: item.path.name not in LONG)


def pytest_collection_finish():
    """A million objects of imports and collected tests are no garbage: a worker does not look at them, now or later."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        gc.freeze()
        gc.set_threshold(20_000)
        gc.enable()


@pytest.fixture(autouse=True)
def _seeded():
    import torch

    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_imports(tmp_path_factory):
    """Modules of a test's own folder are forgotten after it: others have files of the same names."""
    path, before, own = list(sys.path), set(sys.modules), str(tmp_path_factory.getbasetemp())
    yield
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(own):
            del sys.modules[name]


@pytest.fixture(scope="module")
def one_thread():
    """Many forwards of tiny nets: a second thread costs more than it does."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """The command line in this process, in an empty folder: (exit code, standard output, standard error)."""
    from bninspect import cli

    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "BNINSPECT_FORMAT", "BNINSPECT_DEBUG", "BNINSPECT_OFFLINE"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments):
        capsys.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def python():
    """The first words of a command: Python in a process of its own, which need not wait for torch (see ready.py)."""
    tool = str(Path(__file__).parent / "ready.py")
    with tempfile.TemporaryDirectory() as folder:  # a socket's path must be short
        words = [sys.executable, tool, path := f"{folder}/socket"]
        environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(words, env=environment, **pipes) as server:
            server.stdout.readline()
            yield [sys.executable, "-SE", tool, path]
            server.stdin.close()


@pytest.fixture
def command(tmp_path, python):
    """The real command line in a process of its own."""

    def call(*arguments, **options):
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **options.pop("env", {})}
        return subprocess.run(
            [*python, "-m", "bninspect", *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **options,
        )

    return call


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The hub's cache in a folder of the test's own, and no way to the hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def resnet18():
    import torch
    from torchvision.models import resnet18

    torch.manual_seed(0)
    return resnet18(weights=None)


NOTE_BATCH = [[[[1.0, 2.0]], [[2.0, 1.0]], [[2.0, 2.0]]], [[[2.0, 2.0]], [[3.0, 1.0]], [[1.0, 2.0]]]]


@pytest.fixture
def note_batch():
    """The batch of the study note, shape [2, 3, 1, 2]."""
    import torch

    return torch.tensor(NOTE_BATCH)
