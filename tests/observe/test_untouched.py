"""The first promise: whatever happens, the model and the process are as they were."""

from __future__ import annotations

import gc
import signal
import threading
import time
import traceback
import weakref

import pytest
import torch
from fingerprint import fingerprint
from healthy import smooth, train_a_little
from torch import nn

import bninspect
from bninspect.errors import ForwardError


class Stateful(nn.Module):
    """Counts its calls, caches its input, draws random numbers, and freezes a layer whenever it is put to train."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        self.frozen = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.lazy = nn.LazyBatchNorm2d()
        self.calls = 0
        self.cache = []
        self.train(True)

    def train(self, mode=True):
        super().train(mode)
        self.frozen.eval()
        for parameter in self.frozen.parameters():
            parameter.requires_grad = False
        return self

    def forward(self, x):
        self.calls += 1
        self.cache.append(x.shape)
        x = self.drop(self.frozen(self.bn1(self.conv(x))))
        self.last = x
        return self.lazy(x + torch.rand(1))


def stateful():
    return Stateful()


def mixed(resnet18_like=None):
    """A model in training with some of its BatchNorm layers in eval, gradients, and a user's hook."""
    from torchvision.models import resnet18

    model = resnet18(weights=None).train()
    model.layer1.eval()
    model.layer2[0].bn1.weight.requires_grad = False
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    model.conv1.register_forward_hook(lambda *_: None)
    return model


def weight_norm():
    layer = nn.utils.weight_norm(nn.Conv2d(3, 4, 3))  # keeps its weight as a plain tensor that is no leaf
    return nn.Sequential(layer, nn.BatchNorm2d(4)).train()


CALLS = {
    "summary": lambda model: bninspect.summary(model, (3, 32, 32)),
    "summary train": lambda model: bninspect.summary(model, (3, 32, 32), mode="train", all_layers=True),
    "stats": lambda model: bninspect.stats(model, torch.randn(3, 3, 32, 32)),
    "stats train": lambda model: bninspect.stats(model, torch.randn(4, 3, 32, 32), mode="train", batch_size=2),
    "check": lambda model: bninspect.check(model, input_size=(3, 32, 32)),
    "check data": lambda model: bninspect.check(model, torch.randn(16, 3, 32, 32), batch_size=4),
}
MODELS = {"stateful": stateful, "mixed": mixed, "weight_norm": weight_norm}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("make", MODELS)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_success_leaves_everything(call, make):
    model = MODELS[make]()
    batch_rng = torch.get_rng_state()
    before = fingerprint(model)
    CALLS[call](model)
    if not call.startswith("summary"):  # the test itself drew the batch
        torch.set_rng_state(batch_rng)
    assert fingerprint(model) == before


def test_the_batch_is_left_too():
    batch = torch.randn(4, 3, 8, 8, requires_grad=True)
    before = batch.detach().clone(), batch._version, batch.requires_grad
    bninspect.stats(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(inplace=True)), batch, mode="train")
    assert torch.equal(batch, before[0])
    assert (batch._version, batch.requires_grad) == before[1:]


class Raise(nn.Module):
    """Raises at its ``at``-th call."""

    def __init__(self, error, at):
        super().__init__()
        self.error = error
        self.at = at

    def forward(self, x):
        if self.at == 0:
            raise self.error
        return x


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
@pytest.mark.parametrize("call", CALLS)
def test_every_point_of_failure_leaves_everything(call, error):
    for at in range(5):
        layers = [nn.Conv2d(3, 4, 3, padding=1)]
        for position in range(5):
            layers += [nn.BatchNorm2d(4), Raise(error, 0 if position == at else 1), nn.Conv2d(4, 4, 3, padding=1)]
        model = nn.Sequential(*layers).train()
        model[1].eval()
        state = torch.get_rng_state()
        before = fingerprint(model)
        expected = ForwardError if isinstance(error, ValueError) else type(error)
        with pytest.raises(expected):
            CALLS[call](model)
        torch.set_rng_state(state)
        assert fingerprint(model) == before


def test_failure_at_every_batchnorm_of_resnet18(resnet18):
    """A user's own hook raises at the k-th BatchNorm, for all k."""
    norms = [module for module in resnet18.modules() if isinstance(module, nn.BatchNorm2d)]
    resnet18.train()
    norms[3].eval()
    batch = torch.randn(2, 3, 32, 32)

    def fail(*_):
        raise RuntimeError("the user's hook")

    for norm in norms:
        handle = norm.register_forward_hook(fail)
        before = fingerprint(resnet18)
        with pytest.raises(ForwardError, match="the user's hook"):
            bninspect.stats(resnet18, batch, mode="train")
        assert fingerprint(resnet18) == before
        handle.remove()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_check_that_fails_at_any_batchnorm_of_its_forwards_leaves_everything(error):
    """A user's hook raises at the k-th call of a BatchNorm: in the pass of statistics, or those that compare modes.

    Where a changed input is tried, and only there, an error says no more than that it is no explanation.
    """
    model, x = trained_resnet(), smooth(32, 3, 16, 16)
    calls, limit, trying = [], None, False

    def fail(_, args):
        nonlocal trying
        if not args[0].is_meta:
            calls.append(1)
            if len(calls) == limit:
                trying = any(frame.filename.endswith("candidates.py") for frame in traceback.extract_stack())
                raise error("the user's hook")

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(fail)
    before = fingerprint(model)
    bninspect.check(model, x, batch_size=8)
    total = len(calls)
    assert total > 200  # more than sixteen forwards of twelve layers, each of which fails once at the least
    assert fingerprint(model) == before
    kept = 0
    for limit in [*range(1, total, 11), total]:
        calls.clear()
        expected = KeyboardInterrupt if error is KeyboardInterrupt else ForwardError
        try:
            bninspect.check(model, x, batch_size=8)
        except expected:
            kept += 1
            assert len(calls) == limit
        else:
            assert trying
            assert error is RuntimeError
        assert fingerprint(model) == before
    assert kept > 4


def trained_resnet():
    """A network that needs every pass, in training, with gradients and some of its layers in eval mode."""
    from torchvision.models.resnet import BasicBlock, ResNet

    model = train_a_little(ResNet(BasicBlock, [1, 1, 1, 1])).train()
    model.layer2.eval()
    model(smooth(16, 3, 32, 32)).sum().backward()
    return model


class Writes(nn.Module):
    """Writes into its parameters at every call, as codebooks do."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.steps = nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, x):
        self.steps += 1
        for parameter in self.inner.parameters():
            parameter.data.mul_(1.01)
        return self.inner(x)


@pytest.mark.parametrize("writes", [False, True])
def test_ctrl_c_at_any_moment_leaves_everything(resnet18, writes):
    model, batch = Writes(resnet18).train() if writes else resnet18, torch.randn(8, 3, 64, 64)
    before = fingerprint(model)
    interrupted = 0
    for delay in (0.001, 0.005, 0.02, 0.05, 0.1, 0.15):
        timer = threading.Timer(delay, lambda: signal.raise_signal(signal.SIGINT))
        try:
            timer.start()
            bninspect.stats(model, batch, mode="train", batch_size=1)
            timer.join()
            time.sleep(0.1)  # a signal that is on its way arrives within this block
        except KeyboardInterrupt:
            interrupted += 1
        assert fingerprint(model) == before
    assert interrupted


def test_a_pending_backward_survives(resnet18):
    resnet18.train()
    loss = resnet18(torch.randn(2, 3, 32, 32)).sum()
    bninspect.stats(resnet18, torch.randn(2, 3, 32, 32), mode="train")
    loss.backward()
    assert resnet18.conv1.weight.grad is not None
    resnet18.zero_grad(set_to_none=True)


def test_train_mode_shows_what_training_would_do_and_updates_nothing():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3))
    batch = torch.randn(8, 3, 4, 4) * 5 + 2
    report = bninspect.stats(model, batch, mode="train")
    assert abs(report.layers[1].var_max - 1) < 1e-3
    assert abs(report.layers[1].mean_max) < 1e-6
    assert model[0].num_batches_tracked == 0


def test_a_class_that_freezes_its_layers_has_its_say():
    class Freezes(nn.Sequential):
        def train(self, mode=True):
            super().train(mode)
            self[0].eval()
            return self

    report = bninspect.stats(Freezes(nn.BatchNorm2d(3), nn.BatchNorm2d(3)), torch.randn(8, 3, 8, 8) + 3, mode="train")
    assert report.layers[1].mean_min > 2


def test_lazy_layers_are_measured_and_stay_lazy():
    model = Stateful()
    report = bninspect.stats(model, torch.randn(8, 3, 8, 8), mode="train")
    assert [(layer.path, layer.num_features) for layer in report.layers] == [("bn1", 4), ("frozen", 4), ("lazy", 4)]
    assert type(model.lazy) is nn.LazyBatchNorm2d


def test_parameters_share_memory_and_are_not_copied():
    from bninspect.observe.shadow import shadow

    model = nn.Linear(1000, 1000)
    twin = shadow(model)
    assert twin.weight.data_ptr() == model.weight.data_ptr()
    assert twin.weight is not model.weight


def test_nothing_is_kept_alive():
    model = nn.Sequential(nn.BatchNorm2d(3))
    alive = weakref.ref(model)
    bninspect.summary(model, (3, 8, 8))
    bninspect.stats(model, torch.randn(2, 3, 8, 8))
    del model
    gc.collect()
    assert alive() is None


def test_random_numbers_in_the_model_are_the_same_every_time():
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4))
    batch = torch.randn(16, 4)
    first, second = (bninspect.stats(model, batch, mode="train").layers[0].mean_max for _ in range(2))
    assert first == second
