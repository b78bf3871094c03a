"""What a watch costs beside the training steps: time of one thread, and the obvious way beside it."""

from __future__ import annotations

import statistics
import time

import pytest
import torch
from torch import nn
from torchvision.models import get_model

import bninspect

CASES = [("resnet18", 50, 100, 1.01), ("resnet18", 1, 40, 1.05), ("resnet152", 1, 10, 1.08)]


def steps(model, optimizer, count):
    """Time of each training step on one thread."""
    images, labels = torch.randn(32, 3, 64, 64), torch.randint(10, (32,))
    for _ in range(count):
        start = time.thread_time()
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield time.thread_time() - start


@pytest.mark.parametrize("case", CASES, ids=str)
def test_time_of_a_step(case, one_thread, tmp_path):
    """Between a hook of the test that runs before the watch's and one that runs after it."""
    name, every, count, bound = case
    model = get_model(name, weights=None, num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    spent, begun = [], [0.0]
    before = optimizer.register_step_post_hook(lambda *_: begun.__setitem__(0, time.thread_time()))
    with bninspect.watch(model, optimizer, every=every, to=tmp_path / "run.jsonl"):
        after = optimizer.register_step_post_hook(lambda *_: spent.append(time.thread_time() - begun[0]))
        whole = list(steps(model, optimizer, count))
    before.remove(), after.remove()
    ratio = 1 / (1 - sum(spent[count // 2 :]) / sum(whole[count // 2 :]))
    hooked, spent = [], []

    def hook(module, args):
        start = time.thread_time()
        torch.var_mean(args[0].detach(), (0, 2, 3))
        spent.append(time.thread_time() - start)

    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.register_forward_pre_hook(hook)
    for total in steps(model, optimizer, 5):
        hooked.append(total / (total - sum(spent)))
        spent.clear()
    obvious = statistics.median(hooked)
    print(f"\n{name}, every={every}: {ratio:.4f} of a step ({bound}); var_mean in each forward {obvious:.3f}")
    assert ratio <= bound
