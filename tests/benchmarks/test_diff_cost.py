"""What comparison costs: beside an import of torch, and in a pytest that does not use the fixture."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest

import bninspect
from bninspect.inspection.snapshot import file as snapshot
from bninspect.inspection.stats.stored import stored_stats as of_layers
from bninspect.layers import BatchNormLayer
from bninspect.report import Source

RESNET50 = [
    64,
    *[64, 64, 256] * 3,
    256,
    *[128, 128, 512] * 4,
    512,
    *[256, 256, 1024] * 6,
    1024,
    *[512, 512, 2048] * 3,
    2048,
]


def seconds(command, **where):
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, **where)
    return time.perf_counter() - start


def processor_seconds(command, **where):
    """What a command takes of the processor, which depends less on what else runs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, **where)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def in_turn(first, second, rounds, *, measure=seconds, **where):
    """Medians of two commands, run alternately so that both see the same machine."""
    pairs = [(measure(first, **where), measure(second, **where)) for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*pairs, strict=True)]


def network(seed):
    generator = np.random.default_rng(seed)
    layers = []
    for index, size in enumerate(RESNET50):
        names = ("weight", "bias", "running_mean", "running_var")
        vectors = {name: generator.random(size, dtype=np.float32) + 0.5 for name in names}
        layers.append(BatchNormLayer(path=f"bn{index}", kind="BatchNorm2d", num_features=size, eps=1e-5, **vectors))
    return of_layers(layers, Source(model=f"network {seed}"))


def test_comparing_26560_channels(capsys):
    assert sum(RESNET50) == 26_560
    a, b = network(0), network(1)
    assert bninspect.diff(a, a).equal
    rounds = []
    for _ in range(10):
        start = time.perf_counter()
        assert len(bninspect.diff(a, b).differences) == 4 * len(RESNET50)
        rounds.append(time.perf_counter() - start)
    took = min(rounds)
    with capsys.disabled():
        print(f"\ndiff of 26,560 channels in 53 layers: {1000 * took:.1f} ms")
    assert took < 0.1


@pytest.fixture
def stored(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        snapshot.save(tmp_path / f"{name}.json", network(seed), vectors=True)
    return tmp_path


def test_two_stored_reports_cost_less_than_a_third_of_importing_torch(stored, capsys):
    code = "from bninspect.cli import run; assert run(['diff', 'a.json', 'b.json']) == 1"
    ours, torch = in_turn([sys.executable, "-c", code], [sys.executable, "-c", "import torch"], 5, cwd=stored)
    with capsys.disabled():
        print(f"\ndiff of two stored reports: {ours:.3f} s, import torch {torch:.3f} s, {ours / torch:.2f} of it")
    assert ours <= 0.35 * torch


def test_two_checkpoints_of_100_megabytes(tmp_path, capsys):
    from safetensors.numpy import save_file

    generator = np.random.default_rng(0)
    for name in "ab":
        tensors = {f"conv{index}.weight": generator.random((250, 1000, 10), dtype=np.float32) for index in range(10)}
        for index, size in enumerate(RESNET50):
            for field in ("weight", "bias", "running_mean", "running_var"):
                tensors[f"bn{index}.{field}"] = generator.random(size, dtype=np.float32)
        save_file(tensors, tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").stat().st_size > 100e6
    code = "from bninspect.cli import run; assert run(['diff', 'a.safetensors', 'b.safetensors']) == 1"
    ours, torch = in_turn([sys.executable, "-c", code], [sys.executable, "-c", "import torch"], 5, cwd=tmp_path)
    with capsys.disabled():
        print(
            f"\ndiff of two checkpoints of 100 MB: {ours:.3f} s, import torch {torch:.3f} s, {ours / torch:.2f} of it"
        )
    assert ours <= 0.35 * torch


def test_the_plugin_adds_next_to_nothing_to_a_pytest_run(tmp_path, capsys):
    (tmp_path / "test_plain.py").write_text("def test_plain():\n    pass\n")
    bare = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    ours = [*bare, "-p", "bninspect.pytest_plugin"]
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # other plugins would make the share look smaller
    without, with_it = in_turn(bare, ours, 31, measure=processor_seconds, cwd=tmp_path, env=alone)
    with capsys.disabled():
        print(f"\npytest {without:.4f} s without the plugin, {with_it:.4f} s with it: {with_it / without - 1:+.1%}")
    assert with_it <= 1.05 * without
