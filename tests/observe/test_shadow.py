"""Ordinary models that a deep copy would refuse, or that would run themselves in the place of their copy."""

from __future__ import annotations

import argparse
import functools
import queue
import tempfile
import threading
import types
from collections import UserDict, deque, namedtuple
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from fingerprint import fingerprint
from torch import nn

import bninspect
from bninspect.observe import guard
from bninspect.observe.forward import forward
from bninspect.observe.shadow import shadow


def batch():
    return torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 3 + 1


class Net(nn.Module):
    """Two BatchNorm layers; subclasses and functions below add what is not ordinary."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        self.bn2 = nn.BatchNorm2d(4)
        with torch.no_grad():  # learned, so that no rule takes it for new
            for bn in (self.bn1, self.bn2):
                bn.weight.uniform_(0.5, 1.5)
                bn.running_mean.normal_()

    def forward(self, x):
        return self.bn2(torch.relu(self.bn1(self.conv(x))))


# What a model may hold, which must be neither copied nor touched


class Trainer:
    """Holds the model, a loader and an optimiser, and must not be copied as a whole."""

    def __init__(self, model):
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        self.loader = torch.utils.data.DataLoader(torch.zeros(4, 3))
        self.lock = threading.Lock()
        self.steps = 0

    def __deepcopy__(self, memo):
        raise TypeError("a trainer is not copied")


def holds(value):
    def make():
        net = Net()
        net.held = value(net)
        return net

    return make


def generator(_):
    return (number for number in range(3))


class NoCopy(nn.BatchNorm2d):
    def __deepcopy__(self, memo):
        raise TypeError("not me")


def no_deepcopy():
    net = Net()
    net.bn2 = NoCopy(4)
    return net


# A forward that is replaced on the instance


def old_method_in_closure():
    net = Net()
    for layer in (net.bn1, net):
        old = layer.forward
        layer.forward = lambda x, old=None, *, inner=old: inner(x)
    return net


def closure():
    net = Net()

    def around(layer):
        old = layer.forward

        def forward(x):
            return old(x)

        return functools.wraps(old)(forward)

    for layer in (net.conv, net.bn1, net.bn2, net):
        layer.forward = around(layer)
    return net


def partial_of_module():
    """As offloading libraries do it."""
    net = Net()

    def new_forward(module, *args, **kwargs):
        return module._old_forward(*args, **kwargs)

    for layer in (net.conv, net.bn1, net.bn2, net):
        layer._old_forward = layer.forward
        layer.forward = functools.update_wrapper(functools.partial(new_forward, layer), layer._old_forward)
    return net


def bound_closure():
    net = Net()
    old = net.forward
    net.forward = types.MethodType(lambda self, x: old(x), net)
    return net


class Adapter:
    def __init__(self, layer):
        self.inner = [layer]
        self.old = layer.forward

    def __call__(self, x):
        return self.old(x) + 0 * self.inner[0].weight.sum()


def adapter_object():
    net = Net()
    net.bn1.forward = Adapter(net.bn1)
    return net


def recursive_closure():
    net = Net()

    def forward(x, depth=1):
        return forward(x, depth - 1) if depth else Net.forward(net, x)

    net.forward = forward
    return net


# Hooks that write to other layers


def hook_writes_to_a_layer():
    net = Net()
    other = net.bn2

    def hook(*_):
        other.running_mean.add_(1)
        other.num_batches_tracked += 1

    net.conv.register_forward_hook(hook)
    return net


def hook_writes_to_a_buffer():
    net = Net()
    mean = net.bn2.running_mean

    def hook(*_):
        mean.mul_(2)

    net.conv.register_forward_hook(hook)
    return net


def hook_that_removes_itself():
    net = Net()

    def hook(*_):
        net.handle.remove()

    net.handle = net.bn1.register_forward_pre_hook(hook)
    return net


# Forwards that write into the model


class Codebook(Net):
    def __init__(self):
        super().__init__()
        self.codes = nn.Parameter(torch.randn(4))
        self.steps = nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, x):
        self.steps.add_(1)
        self.codes.data.mul_(0.9)
        with torch.no_grad():
            self.conv.weight.clamp_(-0.05, 0.05)
            self.bn1.weight[0] = 2.0
            torch.mul(self.bn2.bias, 2, out=self.bn2.bias)
            torch._foreach_add_([self.bn1.bias, self.codes.data], 1.0)
        return super().forward(x) * self.codes.view(1, -1, 1, 1)


class LateWriter(Net):
    """Writes at its third call alone, when nothing of it has been seen before."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, x):
        self.calls.append(1)
        if len(self.calls) == 3:
            self.conv.weight.data.zero_()
        return super().forward(x)


class Renormalised(Net):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(4, 4, max_norm=0.1)

    def forward(self, x):
        return super().forward(x) + self.table(torch.zeros(1, dtype=torch.long, device=x.device)).view(1, 4, 1, 1)


# What a forward keeps


Pair = namedtuple("Pair", "first second")


@dataclass
class Counters:
    calls: int = 0
    seen: list = field(default_factory=list)


class Keeps(Net):
    """Counts and caches in containers of every kind, and reaches layers through them."""

    def __init__(self):
        super().__init__()
        self.cache, self.queue, self.names = [], deque([1], maxlen=3), {"a"}
        self.counters, self.options = Counters(), argparse.Namespace(calls=0)
        self.array = np.zeros(2)
        self.own = torch.Generator().manual_seed(3)
        self.settings = UserDict(layer=self.bn2)
        self.layers = Pair([self.bn1], {"bn2": (self.bn2,)})
        object.__setattr__(self, "parent", self)
        self.unregistered = [nn.BatchNorm2d(4)]

    def forward(self, x):
        self.cache.append(x.shape)
        self.queue.append(2)
        self.names.add("b")
        self.counters.calls += 1
        self.counters.seen.append(1)
        self.options.calls += 1
        self.array += 1
        torch.rand(1, generator=self.own)
        x = self.layers.first[0](self.parent.conv(x))
        x = self.layers.second["bn2"][0](x)
        return self.unregistered[0](x) + self.settings["layer"].bias.view(1, -1, 1, 1)


def inference():
    with torch.inference_mode():
        return Net()


def lazy():
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.BatchNorm2d(4))


MODELS = {
    "lock": holds(lambda _: threading.Lock()),
    "file": holds(lambda _: tempfile.TemporaryFile()),  # noqa: SIM115  # the model keeps it open
    "generator": holds(generator),
    "event": holds(lambda _: threading.Event()),
    "queue": holds(lambda _: queue.Queue()),
    "thread": holds(lambda net: threading.Thread(target=net.forward)),
    "trainer": holds(Trainer),
    "__deepcopy__": no_deepcopy,
    "old method in a closure": closure,
    "old method in a default": old_method_in_closure,
    "partial of the module": partial_of_module,
    "bound closure": bound_closure,
    "adapter": adapter_object,
    "recursive closure": recursive_closure,
    "hook writes to a layer": hook_writes_to_a_layer,
    "hook writes to a buffer": hook_writes_to_a_buffer,
    "hook removes itself": hook_that_removes_itself,
    "codebook": Codebook,
    "late writer": LateWriter,
    "max_norm": Renormalised,
    "keeps": Keeps,
    "inference mode": inference,
    "lazy": lazy,
}
CALLS = {
    "summary eval": lambda model: bninspect.summary(model, (3, 16, 16)),
    "summary train": lambda model: bninspect.summary(model, (3, 16, 16), mode="train"),
    "stats eval": lambda model: bninspect.stats(model, batch(), batch_size=2),
    "stats train": lambda model: bninspect.stats(model, batch(), mode="train", batch_size=2),
    "check": lambda model: bninspect.check(model, batch()),
    "check without a batch": lambda model: bninspect.check(model, input_size=(3, 16, 16)),
}


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("make", MODELS)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_it_works_and_leaves_the_model(make, training):
    model = MODELS[make]().train(training)
    before = fingerprint(model)
    for call in CALLS.values():
        report = call(model)
        assert fingerprint(model) == before
        assert not any("model itself" in note for note in report.notes)
        if call is not CALLS["check"] and call is not CALLS["check without a batch"]:
            paths = ["1", "3"] if make == "lazy" else ["bn1", "bn2"]
            assert [layer.path for layer in report.layers] == paths


@pytest.mark.parametrize("make", [closure, partial_of_module, bound_closure, adapter_object, recursive_closure])
def test_figures_are_those_of_the_plain_model(make):
    torch.manual_seed(0)
    changed = bninspect.stats(make(), batch(), mode="train").layers
    torch.manual_seed(0)
    plain = bninspect.stats(Net(), batch(), mode="train").layers
    for ours, theirs in zip(changed, plain, strict=True):
        assert (ours.channels.mean == theirs.channels.mean).all()
        assert (ours.channels.var == theirs.channels.var).all()


def test_a_forward_that_writes_goes_on_with_what_it_wrote():
    """Three calls clip, scale and count as in the model itself, a copy of which runs here."""
    torch.manual_seed(0)
    twin = shadow(Codebook())
    torch.manual_seed(0)
    reference = Codebook()
    with torch.no_grad():
        for _ in range(3):
            ours, theirs = forward(twin, (batch(),), what="Codebook"), reference(batch())
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert twin.steps.item() == 3


LEAK = None


class Leaks(Net):
    """Reaches itself by a global variable: no copy can know of that."""

    def forward(self, x):
        LEAK.bn1(LEAK.conv(x))
        LEAK.conv.weight.data.mul_(2)
        return super().forward(x)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_what_escapes_is_put_back_and_told(monkeypatch, mode):
    model = Leaks().train()
    monkeypatch.setitem(globals(), "LEAK", model)
    before = fingerprint(model)
    report = bninspect.stats(model, batch(), mode=mode, batch_size=4)
    assert fingerprint(model) == before
    assert any("reached the model itself" in note and "bn1.running_mean" in note for note in report.notes)


def test_an_interrupt_while_values_are_put_back_waits_for_them(monkeypatch):
    model = Codebook().train()
    before = fingerprint(model)
    put_back = guard.Guard._put_back
    calls = []

    def interrupted(self, name):
        calls.append(name)
        if len(calls) in (1, 3):
            raise KeyboardInterrupt
        put_back(self, name)

    monkeypatch.setattr(guard.Guard, "_put_back", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bninspect.stats(model, batch())
    assert fingerprint(model) == before


def test_what_is_not_of_the_model_is_shared():
    net = Net()
    net.lock, net.event = threading.Lock(), threading.Event()
    net.trainer = Trainer(net)
    twin = shadow(net)
    assert (twin.lock, twin.event) == (net.lock, net.event)
    assert twin.trainer.model is twin
    assert (twin.trainer.loader, twin.trainer.optimizer) == (net.trainer.loader, net.trainer.optimizer)


def test_buffers_and_containers_are_the_twins_own_and_ties_are_kept():
    net = Keeps()
    net.tied = net.conv.weight
    net.rnn = nn.LSTM(4, 4)
    twin = shadow(net)
    assert twin.tied is twin.conv.weight
    assert twin.conv.weight.data_ptr() == net.conv.weight.data_ptr()
    assert twin.bn1.running_mean.data_ptr() != net.bn1.running_mean.data_ptr()
    assert twin.layers.first[0] is twin.bn1
    assert twin.settings["layer"] is twin.bn2
    assert twin.unregistered[0] is not net.unregistered[0]
    assert all(ours is theirs for ours, theirs in zip(twin.rnn._flat_weights, twin.rnn.parameters(), strict=True))
    assert all(ref() is weight for ref, weight in zip(twin.rnn._flat_weight_refs, twin.rnn.parameters(), strict=True))
