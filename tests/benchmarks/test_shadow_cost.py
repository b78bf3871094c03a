"""What making the copy of a model costs, beside copy.deepcopy of it, and what the guard of its memory costs."""

from __future__ import annotations

import copy
import statistics
import time

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from bninspect.observe import guard
from bninspect.observe.forward import forward
from bninspect.observe.shadow import shadow

ROUNDS = 15


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def spent(action):
    start = time.thread_time()
    result = action()
    return time.thread_time() - start, result


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0"])
def test_making_the_twin(report, name):
    model = get_model(name, weights=None)
    ratios = []
    for _ in range(ROUNDS):
        ours, _ = spent(lambda: shadow(model))
        theirs, _ = spent(lambda: copy.deepcopy(model))
        ratios.append(ours / theirs)
    report(f"{name}, a shadow beside copy.deepcopy", statistics.median(ratios), 0.25)


class Own(nn.Module):
    """Code of the user's around a network, so that every call of torch is looked at."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def test_the_guard(report):
    plain = get_model("mobilenet_v2", weights=None).eval()
    batch = torch.randn(8, 3, 224, 224)
    guarded, free = shadow(Own(plain)), shadow(plain)
    assert isinstance(guard.of(guarded), guard.Guard)
    assert not isinstance(guard.of(free), guard.Guard)
    ratios = []
    with torch.no_grad():
        for _ in range(ROUNDS):
            ours, _ = spent(lambda: forward(guarded, (batch,), what=""))
            theirs, _ = spent(lambda: forward(free, (batch,), what=""))
            ratios.append(ours / theirs)
    report("mobilenet_v2, a guarded forward beside a free one", statistics.median(ratios), 1.05)
