"""What statistics cost beside the bare forward: time of one thread, and memory."""

from __future__ import annotations

import copy
import ctypes
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import get_model

import bninspect

ROOT = Path(__file__).parents[2]
BOUNDS = {
    "resnet18": (1.06, 1.15),
    "resnet50": (1.10, 1.25),
    "mobilenet_v2": (1.20, 1.45),
    "efficientnet_b0": (1.15, 1.40),
}
ONE_CALL = {  # contiguous, channels_last
    "resnet18": (1.15, 1.30),
    "resnet50": (1.25, 1.35),
    "mobilenet_v2": (1.45, 1.80),
    "efficientnet_b0": (1.40, 1.60),
}
ROUNDS = 15
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names of glibc's mallopt


def norms(model):
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def calibrated(name):
    """A net whose running statistics are those of its data, as training leaves them."""
    torch.manual_seed(0)
    model = get_model(name, weights=None).eval()
    batch = torch.randn(8, 3, 224, 224)

    def settle(module, args):
        module.running_var, module.running_mean = torch.var_mean(args[0], (0, 2, 3), correction=0)

    handles = [norm.register_forward_pre_hook(settle) for norm in norms(model)]
    with torch.no_grad():
        model(batch)
    for handle in handles:
        handle.remove()
    return model, batch


def ratio(model, batch, **options):
    """Median ratio of a piece that ``stats`` streams to a bare forward right before it; the first piece warms up."""
    bare, spent = [], []

    def pieces():
        for _ in range(ROUNDS + 1):
            start = time.thread_time()
            with torch.no_grad():
                model(batch)
            middle = time.thread_time()
            yield batch
            bare.append(middle - start)
            spent.append(time.thread_time() - middle)

    bninspect.stats(model, pieces(), **options)
    return statistics.median(ours / theirs for ours, theirs in zip(spent[1:], bare[1:], strict=True))


def ratio_of_var_mean(model, batch):
    """The same of the obvious hook."""
    hooked = copy.deepcopy(model)
    for norm in norms(hooked):
        norm.register_forward_pre_hook(lambda _, args: torch.var_mean(args[0], (0, 2, 3)) and None)
    bare, spent = [], []
    for _ in range(3):
        for net, times in ((model, bare), (hooked, spent)):
            start = time.thread_time()
            with torch.no_grad():
                net(batch)
            times.append(time.thread_time() - start)
    return min(spent) / min(bare)


@pytest.fixture(autouse=True, scope="module")
def _steady():
    """One thread, and an allocator that keeps its memory: else up to half of a forward's time are page faults."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", BOUNDS)
def test_time(report, name):
    model, batch = calibrated(name)
    report(f"{name}, a hook with var_mean", ratio_of_var_mean(model, batch), float("inf"))
    report(f"{name}, mean, variance, per-image figures", ratio(model, batch, extremes=False), BOUNDS[name][0])
    report(f"{name}, with min, max, zeros", ratio(model, batch), BOUNDS[name][1])


def ratio_of_one_call(model, batch):
    """Median ratio of a call of ``stats`` to a bare forward right before it: shadow, hooks, report and all."""
    ratios = []
    for _ in range(ROUNDS + 1):
        start = time.thread_time()
        with torch.no_grad():
            model(batch)
        middle = time.thread_time()
        bninspect.stats(model, batch)
        ratios.append((time.thread_time() - middle) / (middle - start))
    return statistics.median(ratios[1:])


@pytest.mark.parametrize("name", ONE_CALL)
def test_time_of_one_call(report, name):
    model, batch = calibrated(name)
    report(f"{name}, one call", ratio_of_one_call(model, batch), ONE_CALL[name][0])
    model, batch = model.to(memory_format=torch.channels_last), batch.contiguous(memory_format=torch.channels_last)
    report(f"{name}, one call, channels_last", ratio_of_one_call(model, batch), ONE_CALL[name][1])


@pytest.mark.parametrize("name", BOUNDS)
def test_time_of_channels_last_and_of_random_weights(report, name):
    """Reported, not bound: another memory format, and nets whose means dwarf their deviations."""
    model, batch = calibrated(name)
    model, batch = model.to(memory_format=torch.channels_last), batch.contiguous(memory_format=torch.channels_last)
    report(f"{name} channels_last", ratio(model, batch, extremes=False), float("inf"))
    report(f"{name} channels_last, with min, max, zeros", ratio(model, batch), float("inf"))
    torch.manual_seed(0)
    model = get_model(name, weights=None).eval()
    report(f"{name} with random weights", ratio(model, torch.randn(8, 3, 224, 224), extremes=False), float("inf"))


MEMORY = """
import resource, sys, torch, bninspect
from torchvision.models import get_model
what, name, images, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
torch.manual_seed(0)
model = get_model(name, weights=None).eval()
pieces = (torch.randn(size, 3, 224, 224) for _ in range(images // size))
if what == "stats":
    bninspect.stats(model, pieces)
else:
    with torch.no_grad():
        for piece in pieces:
            model(piece)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, *map(str, arguments)],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "efficientnet_b0"])
def test_memory_beside_the_bare_forward(report, name):
    """With so many images that their activations, and not the imports, make the peak."""
    report(f"{name}, peak memory of stats", peak("stats", name, 48, 48) / peak("bare", name, 48, 48), 1.10)


def test_memory_does_not_grow_with_the_pieces(report):
    ratio = peak("stats", "resnet18", 64, 4) / peak("stats", "resnet18", 8, 4)
    report("resnet18, peak of 16 pieces against 2", ratio, 1.03)
