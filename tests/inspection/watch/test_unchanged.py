"""Training is the same to the bit with and without a watch, and nothing of it is left on the model."""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import pickle
import random
import shutil
import weakref

import numpy as np
import pytest
import torch
from loops import batch, block, net, step
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

import bninspect
from bninspect.errors import InputError

STEPS = 200


def sgd(model):
    return torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)


def adamw(model):
    return torch.optim.AdamW(model.parameters(), 1e-3)


def plain(model, optimizer, number):
    step(model, optimizer, *batch())


def half(model, optimizer, number):
    with torch.autocast("cpu", torch.bfloat16):
        step(model, optimizer, *batch())


def accumulated(model, optimizer, number):
    images, labels = batch()
    nn.functional.cross_entropy(model(images), labels).backward()
    if number % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()


class Again(nn.Module):
    """Its middle runs again in the backward."""

    def __init__(self):
        super().__init__()
        self.first, self.middle = block(3, 8), block(8, 8)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(8, 4))

    def forward(self, x):
        return self.head(checkpoint(self.middle, self.first(x), use_reentrant=False))


def averaged(model, optimizer, number):
    if not hasattr(optimizer, "average"):
        optimizer.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
    step(model, optimizer, *batch())
    optimizer.average.update_parameters(model)


def state(model, optimizer):
    """All that a training is: bytes of parameters, buffers, optimizer, and the three generators."""
    buffer = io.BytesIO()
    average = getattr(optimizer, "average", None)
    torch.save([model.state_dict(), optimizer.state_dict(), average and average.state_dict()], buffer)
    return (
        buffer.getvalue(),
        torch.get_rng_state().numpy().tobytes(),
        random.getstate(),
        np.random.get_state()[1].tobytes(),
    )


def trained(make, optimizer_of, act, watched, tmp_path):
    torch.manual_seed(7), random.seed(7), np.random.seed(7)
    model = make()
    optimizer = optimizer_of(model)
    with contextlib.ExitStack() as stack:
        if watched is not None:
            stack.enter_context(bninspect.watch(model, optimizer, to=str(tmp_path / "run.jsonl"), **watched))
        for number in range(1, STEPS + 1):
            act(model, optimizer, number)
    return state(model, optimizer)


def compiled(backend):
    def make():
        torch.compiler.reset()
        return torch.compile(net(0.3), backend=backend)

    return make


VARIANTS = {
    "SGD and dropout": (lambda: net(0.3), sgd, plain),
    "AdamW and dropout": (lambda: net(0.3), adamw, plain),
    "bfloat16": (lambda: net(0.3), sgd, half),
    "accumulation": (lambda: net(0.3), sgd, accumulated),
    "checkpointing": (Again, sgd, plain),
    "an average of weights": (lambda: net(0.3), sgd, averaged),
    "SyncBatchNorm": (lambda: nn.SyncBatchNorm.convert_sync_batchnorm(net(0.3)), sgd, plain),
    "compiled": (compiled("eager"), sgd, plain),
}


@pytest.mark.filterwarnings("ignore::bninspect.errors.WatchWarning")
@pytest.mark.parametrize("name", VARIANTS)
def test_training_is_the_same_to_the_bit(name, tmp_path, one_thread):
    probe = batch(16)[0]
    without = trained(*VARIANTS[name], None, tmp_path)
    watched = trained(*VARIANTS[name], {"every": 7, "channels": True, "probe": probe, "probe_every": 60}, tmp_path)
    assert watched == without


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a compiler")
def test_training_by_inductor_is_the_same_to_the_bit(one_thread):
    """Compiled once, before the watch: a hook in the forward would not be called any more."""
    small = nn.Sequential(block(3, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    begun, model = copy.deepcopy(small.state_dict()), torch.compile(small)
    results = []
    for watched in (False, True):
        small.load_state_dict(begun), torch.manual_seed(7)
        optimizer = sgd(model)
        with bninspect.watch(model, optimizer, every=1) if watched else contextlib.nullcontext():
            for number in range(1, 31):
                plain(model, optimizer, number)
        results.append(state(model, optimizer))
    assert results[0] == results[1]


@pytest.mark.filterwarnings("ignore::bninspect.errors.WatchWarning")
def test_a_compiled_step_of_the_optimizer_is_watched(tmp_path):
    model = net()
    optimizer = sgd(model)
    compiled_step = torch.compile(optimizer.step, backend="eager")
    lines = []
    with bninspect.watch(model, optimizer, every=1, to=lambda figures, at: lines.append(at)):
        for _ in range(4):
            images, labels = batch()
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            compiled_step()
    assert lines == [1, 2, 3, 4]


def test_nothing_is_left_on_the_model_or_kept_of_it(tmp_path):
    model = net()
    optimizer = sgd(model)
    expected = {name: set(vars(module)) for name, module in model.named_modules()}
    hooks = [len(module._forward_hooks) for module in model.modules()]
    stored, whole = pickle.dumps(model.state_dict()), pickle.dumps(model)
    with bninspect.watch(model, optimizer, every=1, to=str(tmp_path / "run.jsonl")) as watch:
        assert pickle.dumps(model.state_dict()) == stored
        assert pickle.dumps(model) == whole
        copy.deepcopy(model), copy.deepcopy(optimizer)
        step(model, optimizer, *batch())
        assert {name: set(vars(module)) for name, module in model.named_modules()} == expected
        assert [len(module._forward_hooks) for module in model.modules()] == hooks
        assert len(optimizer._optimizer_step_post_hooks) == 1
    assert len(optimizer._optimizer_step_post_hooks) == 0
    gone = weakref.ref(model)
    del model, optimizer
    gc.collect()
    assert gone() is None
    assert watch.alarms == ()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_after_an_exception(error, tmp_path):
    model = net()
    optimizer = sgd(model)

    def interrupted():
        with bninspect.watch(model, optimizer, to=str(tmp_path / "run.jsonl")):
            step(model, optimizer, *batch())
            raise error("stop")

    with pytest.raises(error):
        interrupted()
    assert len(optimizer._optimizer_step_post_hooks) == 0
    last = (tmp_path / "run.jsonl").read_text().splitlines()[-1]
    assert f'"error":"{error.__name__}: stop"' in last


def test_a_watch_that_cannot_begin_leaves_nothing(tmp_path):
    model = net()
    optimizer = sgd(model)

    def stop(alarm):
        raise StopIteration

    with torch.no_grad():
        model[0][1].running_var[0] = torch.nan
    with pytest.warns(match="BN101"), pytest.raises(StopIteration):
        bninspect.watch(model, optimizer, to=str(tmp_path / "run.jsonl"), on_alarm=stop).__enter__()
    assert len(optimizer._optimizer_step_post_hooks) == 0
    with pytest.raises(InputError, match="exists"):
        bninspect.watch(model, optimizer, to=str(tmp_path / "run.jsonl")).__enter__()
    assert len(optimizer._optimizer_step_post_hooks) == 0


def test_a_watch_is_for_one_block():
    model = net()
    watch = bninspect.watch(model)
    with pytest.raises(InputError, match="outside of its with block"):
        watch.step()
    with watch:
        watch.step(loss=1.0)
        with pytest.raises(InputError, match="is for one with block"):
            watch.__enter__()
    with pytest.raises(InputError, match="outside of its with block"):
        watch.step()
    with pytest.raises(InputError, match="is for one with block"):
        watch.__enter__()
