"""What a look at a stored file costs, as whole processes: CPU time against ``import torch``, and peak memory."""

import subprocess
import sys

import pytest
import torch
import torchvision
from hostile import build
from safetensors.torch import save_file

READ = (
    "import sys; from bninspect.models.stored.reading import read; "
    "print(len(read(sys.argv[1]).layers), 'torch' in sys.modules)"
)
COMMANDS = {
    "reader": ["-c", READ],
    "summary": ["-m", "bninspect", "summary"],
    "stats": ["-m", "bninspect", "stats"],
}


WATCH = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
print(status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
"""  # a small process of its own: a child's peak memory counts from its parent's


def cost(*arguments):
    """CPU seconds and peak megabytes of a fresh Python process: the least of five."""
    seen = []
    for _ in range(5):
        words = [sys.executable, "-c", WATCH, sys.executable, *arguments]
        status, seconds, memory = map(float, subprocess.check_output(words, text=True).split())
        assert status == 0, arguments
        seen.append((seconds, memory))
    return min(seconds for seconds, _ in seen), min(memory for _, memory in seen)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def small(folder):
    path = folder / "resnet50"
    torch.save(torchvision.models.resnet50().state_dict(), path)
    return str(path)


@pytest.fixture(scope="module", params=["pt", "safetensors"])
def large(folder, request):
    """A regnet_y_128gf, 2.6 GB, with its own names and shapes; its values are left as they come."""
    path = folder / "regnet"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("normal_", "kaiming_uniform_", "uniform_"):
            patch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)
        state = torchvision.models.regnet_y_128gf().state_dict()
    (torch.save if request.param == "pt" else save_file)(state, str(path))
    del state
    yield str(path)
    path.unlink()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_look_costs_a_quarter_of_importing_torch(small, command):
    torch_seconds, torch_memory = cost("-c", "import torch")
    seconds, memory = cost(*COMMANDS[command], small)
    print(f"\n{command}: {seconds:.3f} s, {memory:.0f} MB; import torch: {torch_seconds:.3f} s, {torch_memory:.0f} MB")
    assert seconds <= 0.25 * torch_seconds


@pytest.mark.parametrize("command", COMMANDS)
def test_a_large_file_costs_little_more_than_a_small_one(small, large, command):
    seconds, memory = cost(*COMMANDS[command], small)
    more_seconds, more_memory = cost(*COMMANDS[command], large)
    print(f"\n{command}: {seconds:.3f} -> {more_seconds:.3f} s, {memory:.0f} -> {more_memory:.0f} MB")
    assert more_seconds <= 1.5 * seconds
    assert more_memory <= memory + 60


@pytest.fixture(scope="module", params=["one storage", "a storage each", "legacy", "safetensors"])
def many(folder, request):
    """A hundred thousand layers."""
    path = folder / "many"
    if request.param in ("legacy", "safetensors"):
        fields = [f"layers.{k}.{field}" for k in range(100_000) for field in build.FIELDS]
        values = torch.arange(len(fields), dtype=torch.float32)
        state = {field: values[k : k + 1].clone() for k, field in enumerate(fields)}
        if request.param == "legacy":
            torch.save(state, path, _use_new_zipfile_serialization=False)
        else:
            save_file(state, str(path))
    else:
        path.write_bytes(build.many_layers(100_000, apart=request.param == "a storage each"))
    yield str(path)
    path.unlink()


@pytest.mark.parametrize("command", [*COMMANDS, "check"])
def test_a_hundred_thousand_layers(many, command):
    torch_seconds, _ = cost("-c", "import torch")
    _, nothing = cost("-c", "import bninspect.models.stored.reading")
    seconds, memory = cost(*COMMANDS.get(command, ("-m", "bninspect", command)), many)
    print(f"\n{command}: {seconds:.2f} s, {memory - nothing:.0f} MB more; import torch: {torch_seconds:.2f} s")
    assert seconds <= 5 * torch_seconds
    assert memory <= nothing + 300
