"""On CUDA: the same figures, no wait inside the forward, generators as they were. Skipped where there is none."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fingerprint import fingerprint
from torch import nn

import bninspect
from bninspect import moments
from bninspect.moments import queued, triton
from bninspect.moments.way import Way

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("offset", [0, 30, 1e4, 1e8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_kernel_agrees_with_the_cpu(offset, dtype, layout):
    x = torch.randn(8, 16, 40, 40, dtype=torch.float64) + offset
    x = x.clamp(max=60000).to(dtype).contiguous(memory_format=layout)
    found = queued.together([queued.enqueue(x.cuda())])
    twin = moments.exact(x)
    assert not queued.doubtful(found).any()
    np.testing.assert_allclose(found.M2, twin.M2, rtol=1e-6)
    assert (np.abs(found.mean - twin.mean) <= 1e-6 * np.sqrt(twin.M2 / twin.count) + 1e-12 * np.abs(twin.mean)).all()
    for name in ("min", "max", "zeros", "count", "images"):
        np.testing.assert_array_equal(getattr(found, name), getattr(twin, name))


LAYOUTS = (torch.contiguous_format, torch.channels_last)


@pytest.mark.parametrize("offset", [0, 30, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "shape", [(8, 16, 40, 40), (64, 33, 7, 7), (2, 3, 130, 131), (300, 64, 12, 12), (1, 70, 200, 190)], ids=str
)
def test_the_compiled_kernel_agrees_with_the_definition(offset, dtype, layout, shape):
    x = (torch.randn(shape, dtype=torch.float64) + offset).to(dtype).contiguous(memory_format=layout).cuda()
    kernels = triton.Kernels(x.device)
    slot = kernels.launch(x)
    kernels.finish()
    (found,), twin = triton.slots_together([slot]), moments.exact(x)
    assert not queued.doubtful(found).any()
    np.testing.assert_allclose(found.M2, twin.M2, rtol=1e-6)
    np.testing.assert_allclose(
        found.image_M2, twin.image_M2, rtol=1e-6, atol=float((twin.M2 / twin.count).max()) * 1e-6
    )
    assert (np.abs(found.mean - twin.mean) <= 1e-6 * np.sqrt(twin.M2 / twin.count) + 1e-12 * np.abs(twin.mean)).all()
    for name in ("min", "max", "zeros", "count", "images", "nonfinite"):
        np.testing.assert_array_equal(getattr(found, name), getattr(twin, name))


def test_the_kernel_does_not_wait_and_is_the_way_of_this_device():
    layers = [torch.randn(4, 8, 16, 16, device="cuda"), torch.randn(4, 3, 9, 9, device="cuda").half()]
    way = Way(layers[0].device)
    way.together([way.look(x, extremes=True) for x in layers])  # compiled, and its tables are there
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = [way.look(x, extremes=True) for x in layers]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(isinstance(one, triton.Slot) for one in found)
    assert way.notes == ()
    together = way.together(found)
    for index, x in enumerate(layers):
        twin = moments.exact(x)
        np.testing.assert_allclose(together.M2[slice(0, 8) if index == 0 else slice(8, 11)], twin.M2, rtol=1e-6)


NO_COMPILER = """
import torch, bninspect
from torch import nn
report = bninspect.stats(nn.Sequential(nn.BatchNorm2d(3)).cuda(), torch.randn(4, 3, 8, 8))
print(len(report.layers), round(report.layers[0].count), *report.notes)
"""


def test_without_a_compiler_another_way_is_taken_and_said(tmp_path):
    environment = {**os.environ, "CC": "/bin/false", "TRITON_CACHE_DIR": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")])
    code = [sys.executable, "-c", NO_COMPILER]
    done = subprocess.run(code, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("1 256 Triton could not compile for this device"), done.stderr


def test_no_wait_in_the_forward_of_a_model(resnet18):
    """Between the first layer and the last nothing looks at a number."""
    model = copy.deepcopy(resnet18).cuda().eval()
    batch = torch.randn(4, 3, 64, 64, device="cuda")
    bninspect.stats(model, batch)
    model.conv1.register_forward_pre_hook(lambda *_: torch.cuda.set_sync_debug_mode("error"))
    model.fc.register_forward_hook(lambda *_: torch.cuda.set_sync_debug_mode("default"))
    try:
        assert len(bninspect.stats(model, [batch, batch]).layers) == 20
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_other_way_does_not_wait_either():
    x = torch.randn(4, 8, 16, 16, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        waiting = [queued.enqueue(x), queued.enqueue(x.half())]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(queued.together(waiting).count) == 16


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_stats_agree_with_the_cpu(resnet18, mode):
    batch = torch.randn(4, 3, 64, 64)
    model = copy.deepcopy(resnet18).double()
    cpu = bninspect.stats(model, batch.double(), mode=mode)
    gpu = bninspect.stats(model, batch.double(), mode=mode, device="cuda")
    assert gpu.tool.device.startswith("cuda")
    assert gpu.tool.tf32 is not None
    for ours, theirs in zip(gpu.layers, cpu.layers, strict=True):
        np.testing.assert_allclose(ours.channels.var, theirs.channels.var, rtol=1e-6)
        np.testing.assert_allclose(ours.channels.d, theirs.channels.d, atol=1e-6)


def test_nan_is_measured_again_in_float64():
    batch = torch.randn(4, 3, 8, 8)
    batch[0, 0, 0, 0] = torch.nan
    (layer,) = bninspect.stats(nn.BatchNorm2d(3), batch, device="cuda").layers
    assert layer.nonfinite == 1
    assert np.isfinite(layer.channels.var).all()


def test_the_model_and_the_generators_are_left(resnet18):
    model = copy.deepcopy(resnet18).cuda().train()
    batch = torch.randn(4, 3, 32, 32, device="cuda")
    before = fingerprint(model)
    bninspect.stats(model, batch, mode="train")
    bninspect.summary(model, (3, 32, 32))
    assert fingerprint(model) == before


def test_a_model_of_the_cpu_stays_there(resnet18):
    before = fingerprint(resnet18)["modules"]
    bninspect.stats(resnet18, torch.randn(2, 3, 32, 32), device="cuda")
    assert fingerprint(resnet18)["modules"] == before


def test_autocast_inputs_are_taken_as_they_come():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).cuda()
    with torch.autocast("cuda", torch.float16):
        (layer,) = bninspect.stats(model, torch.randn(4, 3, 20, 20)).layers
    assert layer.dtype == "float16"
