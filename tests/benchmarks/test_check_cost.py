"""What check costs: a file against ``import torch``, a batch against bare forwards, memory against ``stats``."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torchvision

import bninspect

ROOT = Path(__file__).parents[2]
IMAGES = 64


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_file(against, report, tmp_path):
    path = tmp_path / "resnet50.pt"
    torch.save(torchvision.models.resnet50().state_dict(), path)
    cpu, memory = against(["-m", "bninspect", "check", path], ["-c", "import torch"])
    report("check of a ResNet-50 file, CPU against import torch", cpu, 0.3)
    report("check of a ResNet-50 file, peak memory against the same", memory, 1.0)


def sick():
    """A trained look, and statistics that do not fit: every pass is needed, also the one that measures noise."""
    torch.manual_seed(0)
    model = torchvision.models.resnet50().eval()
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
            norm.running_var.fill_(4)
    return model


def spent(work):
    start = time.thread_time()
    work()
    return time.thread_time() - start


def test_forwards(report):
    """64 images at 224 pixels, as one tensor, beside the bare forward of that tensor."""
    model, batch = sick(), torch.randn(IMAGES, 3, 224, 224)
    seen, ratios = [], []
    with torch.no_grad():
        for _ in range(3):
            bare = spent(lambda: model(batch))
            handle = model.fc.register_forward_pre_hook(
                lambda _, args: seen.append(0 if args[0].is_meta else len(args[0]))
            )
            ratios.append(spent(lambda: bninspect.check(model, batch)) / bare)
            handle.remove()
    assert sum(seen) == 3 * 3 * IMAGES  # as it is, in halves, and shuffled in eight groups: no pass was spared
    report(f"check resnet50, {IMAGES} images at 224 px, in forwards", statistics.median(ratios), 3.5)


MEMORY = """
import resource, sys, torch, bninspect
sys.path.insert(0, sys.argv[2])
from test_check_cost import IMAGES, sick
torch.set_num_threads(1)
model, batch = sick(), torch.randn(IMAGES, 3, 224, 224)
if sys.argv[1] == "bare":
    with torch.no_grad():
        model(batch)
else:
    getattr(bninspect, sys.argv[1])(model, batch)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(what):
    folder = str(ROOT / "tests" / "benchmarks")
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    command = [sys.executable, "-c", MEMORY, what, folder]
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def test_memory(report):
    bare, stats, check = (peak(what) for what in ("bare", "stats", "check"))
    report(f"check resnet50, {IMAGES} images at 224 px, peak memory against the bare forward", check / bare, 1.10)
    report("the same against stats", check / stats, 1.05)
