"""On CUDA: the same figures, no wait inside the forward, generators as they were. Skipped where there is none."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from fingerprint import fingerprint
from torch import nn

import bninspect
from bninspect import moments
from bninspect.moments import cpu, queued

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
    found = cpu.collect([queued.enqueue(x.cuda())])
    twin = moments.exact(x)
    assert not queued.doubtful(found).any()
    np.testing.assert_allclose(found.M2, twin.M2, rtol=1e-6)
    assert (np.abs(found.mean - twin.mean) <= 1e-6 * np.sqrt(twin.M2 / twin.count) + 1e-12 * np.abs(twin.mean)).all()
    for name in ("min", "max", "zeros", "count", "images"):
        np.testing.assert_array_equal(getattr(found, name), getattr(twin, name))


def test_nothing_waits_inside_the_forward():
    x = torch.randn(4, 8, 16, 16, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        waiting = [queued.enqueue(x), queued.enqueue(x.half())]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(cpu.collect(waiting).count) == 16


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
