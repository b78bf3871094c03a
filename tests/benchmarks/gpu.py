"""What statistics cost on a GPU: ``python tests/benchmarks/gpu.py`` prints a table, in under 150 seconds.

A figure is the time of a forward with statistics over that of the bare forward right before it: wall time, the device
synchronised around each, the median of some pairs; and likewise the peak of allocated memory. It needs a CUDA device.
"""

from __future__ import annotations

import argparse
import copy
import gc
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time

import torch
from torch import nn
from torchvision.models import get_model

import bninspect

BOUNDS = {  # on an H100
    ("resnet50", 256): (1.18, 1.20, 1.32),
    ("mobilenet_v2", 256): (1.25, 1.30, 1.45),
    ("resnet50", 32): (1.35, 1.45, 1.55),
    ("mobilenet_v2", 32): (1.7, 1.7, 1.7),
}
KINDS = ("fp32", "fp32 channels_last", "bf16 channels_last")
MEMORY = 1.05
FIRST = """
import time, torch, bninspect
from torchvision.models import get_model
model, x = get_model("resnet50", weights=None).cuda().eval(), torch.randn(32, 3, 224, 224, device="cuda")
with torch.no_grad():
    model(x)
torch.cuda.synchronize()
start = time.perf_counter()
report = bninspect.stats(model, x)
torch.cuda.synchronize()
print(time.perf_counter() - start, *report.notes)
"""


def norms(model):
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def prepared(name, kind, images):
    """A net whose running statistics are those of its data, and its data."""
    torch.manual_seed(0)
    model = get_model(name, weights=None).cuda().eval()
    x = torch.randn(images, 3, 224, 224, device="cuda")

    def settle(module, args):
        module.running_var, module.running_mean = torch.var_mean(args[0], (0, 2, 3), correction=0)

    handles = [norm.register_forward_pre_hook(settle) for norm in norms(model)]
    with torch.no_grad():
        model(x[:32])
    for handle in handles:
        handle.remove()
    if "channels_last" in kind:
        model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    return (model.bfloat16(), x.bfloat16()) if "bf16" in kind else (model, x)


def timed(action):
    """Seconds, and bytes at the peak."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    action()
    torch.cuda.synchronize()
    return time.perf_counter() - start, torch.cuda.max_memory_allocated()


def ours(model, x, rounds):
    """Medians of the ratios of a streamed piece to a bare forward right before it: time and memory; bare seconds."""
    bare, spent, most = [], [], []
    with torch.no_grad():
        _, alone = timed(lambda: model(x))

    def pieces():
        for _ in range(rounds + 2):
            with torch.no_grad():
                bare.append(timed(lambda: model(x))[0])
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            yield x
            torch.cuda.synchronize()
            spent.append(time.perf_counter() - start)
            most.append(torch.cuda.max_memory_allocated())  # buffers of the run among it

    report = bninspect.stats(model, pieces())
    assert report.layers[0].count == (rounds + 2) * len(x) * 112 * 112
    pairs = list(zip(bare, spent, most, strict=True))[2:]
    times = statistics.median(mine / seconds for seconds, mine, _ in pairs)
    memory = max(mine for _, _, mine in pairs) / alone
    return times, memory, statistics.median(bare[2:]), report.notes


def hooked(model, x, look, rounds):
    """The same of a hook on each layer."""
    twin = copy.deepcopy(model)
    for norm in norms(twin):
        norm.register_forward_pre_hook(look)
    ratios = []
    with torch.no_grad():
        for _ in range(rounds + 1):
            alone, _ = timed(lambda: model(x))
            mine, _ = timed(lambda: twin(x))
            ratios.append(mine / alone)
    return statistics.median(ratios[1:])


def var_mean(_, args):
    torch.var_mean(args[0], (0, 2, 3))


def batch_norm_stats(_, args):
    torch.batch_norm_stats(args[0], 1e-5)


def first_calls():
    """Seconds of the first call in a process with an empty cache, and in the next process."""
    with tempfile.TemporaryDirectory() as folder:
        for what in ("first call, empty cache", "first call of the next process"):
            environment = {**os.environ, "TRITON_CACHE_DIR": folder}
            done = subprocess.run(
                [sys.executable, "-c", FIRST], env=environment, capture_output=True, text=True, check=False
            )
            print(f"{what}: {done.stdout.strip() or done.stderr.strip()[-300:]} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}")
    first_calls()
    print(f"{'':44} {'bare ms':>8} {'stats':>6} {'bound':>6} {'memory':>7} {'var_mean':>9} {'batch_norm_stats':>17}")
    over = []
    for images, name in itertools.product((256, 32), ("resnet50", "mobilenet_v2")):
        for kind, bound in zip(KINDS, BOUNDS[name, images], strict=True):
            model, x = prepared(name, kind, images)
            ratio, memory, bare, notes = ours(model, x, rounds)
            others = [hooked(model, x, look, min(rounds, 5)) for look in (var_mean, batch_norm_stats)]
            what = f"{name} {kind}, {images} images"
            print(
                f"{what:44} {bare * 1e3:8.1f} {ratio:6.3f} {bound:6.2f} {memory:7.3f}",
                f"{others[0]:9.2f} {others[1]:17.2f}",
                *notes,
                flush=True,
            )
            over += [what] * (ratio > bound or memory > MEMORY)
            del model, x
            gc.collect()
            torch.cuda.empty_cache()
    print("over their bounds: " + (", ".join(over) or "none"))


if __name__ == "__main__":
    main()
