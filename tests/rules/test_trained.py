"""Faults as training makes them: real loops of a few steps, real pruning, real averages of really trained networks."""

from __future__ import annotations

import copy

import pytest
import torch
from healthy import smooth
from torch import nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel, update_bn

import bninspect

IMAGES = (3, 16, 16)


def found(model, code, batch=None, **options):
    return bninspect.check(model, batch, select=[code], **options).findings


def network(seed, depth=8, width=16):
    """Convolutions with BatchNorm and ReLU, and a classifier of four classes."""
    torch.manual_seed(seed)
    layers = []
    for index in range(depth):
        layers += [nn.Conv2d(width if index else 3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))


def train(model, steps, *, seed, lr=0.1, after=lambda _: None):
    """Teach a network which halves of an image are bright."""
    x = smooth(256, *IMAGES, seed=1)
    y = 2 * (x[:, 0].mean((1, 2)) > 0) + (x[:, 1, :8].mean((1, 2)) > 0)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    model.train()
    for step in range(steps):
        chosen = torch.randint(0, 256, (32,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
        optimizer.step()
        after(step)
    return model


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def first():
    return train(network(0), 50, seed=0).eval()


@pytest.fixture(scope="module")
def averaged(first):
    """Half of one trained network and half of another, statistics included, as federated averaging makes it."""
    other = train(network(7), 50, seed=5).state_dict()
    model = copy.deepcopy(first)
    halves = {
        name: (value + other[name]) / 2 for name, value in first.state_dict().items() if value.is_floating_point()
    }
    model.load_state_dict(halves, strict=False)
    return model.eval()


@pytest.fixture(scope="module")
def batch():
    return smooth(64, *IMAGES, seed=2)


def test_bn403_hits_the_average_of_two_trained_networks(averaged, batch):
    (finding,) = found(averaged, "BN403", batch)
    assert (finding.severity, finding.path) == ("warning", None)
    assert finding.evidence["r_median_last"] < 0.5 < finding.evidence["r_median_first"]
    assert "BN401" in {finding.code for finding in bninspect.check(averaged, batch, select=["BN401"]).findings}


def test_bn404_hits_the_average_of_two_trained_networks(averaged, batch):
    (finding,) = found(averaged, "BN404", batch)
    assert finding.severity == "warning"
    assert finding.evidence["disagreement"] > 0.1


def test_bn113_bn401_bn403_and_bn404_miss_an_average_that_was_recalibrated(averaged):
    model = copy.deepcopy(averaged)
    images = smooth(512, *IMAGES, seed=1)
    update_bn([images], model)
    assert (model[1].num_batches_tracked, model[1].momentum) == (1, 0.1)  # as after one step of training
    for code in ("BN113", "BN401", "BN403", "BN404"):
        assert not found(model.eval(), code, smooth(64, *IMAGES, seed=2)), code


def test_bn403_hits_an_averaged_copy_that_took_the_statistics_of_its_source(first, batch):
    source = copy.deepcopy(first)
    copied = AveragedModel(source)
    train(source, 30, seed=3, lr=0.3, after=lambda step: step % 5 or copied.update_parameters(source))
    (finding,) = found(copied.eval(), "BN403", batch)
    assert "averaged" in finding.message


def test_bn102_hits_a_mean_of_squares_minus_the_square_of_the_mean():
    """As in a recalibration in float32: the input is 0.01 wide and lies at 1000."""
    model = nn.BatchNorm1d(32)
    means, squares = torch.zeros(32), torch.zeros(32)
    for _ in range(20):
        x = 1e3 + 0.01 * torch.randn(64, 32)
        means, squares = means + x.mean(0) / 20, squares + x.square().mean(0) / 20
    model.running_mean.copy_(means)
    model.running_var.copy_(squares - means.square())
    (finding,) = found(model, "BN102")
    assert finding.severity == "error"
    assert finding.evidence["running_var_min"] == float(model.running_var.min()) < -1e-3
    assert finding.channels == tuple(torch.nonzero(model.running_var < 0).flatten().tolist())


class Heads(nn.Module):
    """Two heads, of which evaluation uses one."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.main, self.aux = (nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)) for _ in range(2))

    def forward(self, x):
        return self.main(self.stem(x))


def test_bn103_hits_what_an_average_over_calls_leaves_in_a_layer_that_was_not_called():
    model = Heads().train()
    sums = {name: [0, torch.zeros(norm.num_features), torch.zeros(norm.num_features)]
            for name, norm in model.named_modules() if isinstance(norm, nn.BatchNorm2d)}  # fmt: skip

    def add(name):
        def hook(_, args):
            var, mean = torch.var_mean(args[0], (0, 2, 3))
            sums[name] = [sums[name][0] + 1, sums[name][1] + mean, sums[name][2] + var]

        return hook

    handles = [model.get_submodule(name).register_forward_pre_hook(add(name)) for name in sums]
    with torch.no_grad():
        for seed in range(3):
            model(smooth(16, *IMAGES, seed=seed))
    for handle in handles:
        handle.remove()
    for name, (calls, mean, var) in sums.items():
        model.get_submodule(name).running_mean.copy_(mean / max(calls, 1))
        model.get_submodule(name).running_var.copy_(var / max(calls, 1))
    (finding,) = found(model, "BN103")
    assert (finding.severity, finding.path, finding.evidence["running_var_max"]) == ("error", "aux.1", 0)


def test_bn106_hits_a_filter_that_was_pruned():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    prune.ln_structured(model[0], "weight", amount=1, n=2, dim=0)
    for _ in range(150):
        model.train()(torch.randn(4, *IMAGES))
    (pruned,) = torch.nonzero(model[0].weight.flatten(1).abs().sum(1) == 0).flatten().tolist()
    for alike in (model, prune.remove(model[0], "weight") and model):
        (finding,) = found(alike, "BN106")
        assert (finding.severity, finding.channels) == ("info", (pruned,))
    with torch.no_grad():
        nn.init.kaiming_normal_(model[0].weight)  # the filter is grown again, and the statistics are not
    (finding,) = found(model, "BN106", torch.randn(64, *IMAGES))
    assert (finding.severity, finding.channels) == ("warning", (pruned,))


def test_bn107_hits_channels_that_weight_decay_has_switched_off():
    """Nothing reads two of the channels, so that only decay moves their gamma."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 1, 1))
    prune.custom_from_mask(model[3], "weight", torch.tensor([1, 0, 1, 1, 1, 0, 1, 1.0]).view(1, 8, 1, 1))
    nn.init.constant_(model[1].bias[5:6], 0.5)
    decayed = [{"params": [model[1].weight], "weight_decay": 0.5}, {"params": [model[0].weight, model[3].weight_orig]}]
    optimizer = torch.optim.SGD(decayed, lr=0.5)
    for _ in range(70):
        optimizer.zero_grad()
        x = torch.randn(8, *IMAGES)
        (model(x) - 5 * x[:, :1, 1:-1, 1:-1]).square().mean().mul(0.1).backward()
        optimizer.step()
    off, constant = found(model, "BN107")
    assert (off.severity, off.channels, constant.channels) == ("info", (1,), (5,))


def pushed(direction):
    """A few steps that are too large push one channel's beta away, as they do where a ReLU dies."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    model[1].weight.requires_grad_(False)  # as is usual before ReLU
    optimizer = torch.optim.SGD(model.parameters(), lr=8)
    for _ in range(5):
        optimizer.zero_grad()
        (direction * model(smooth(16, *IMAGES))[:, 4]).mean().mul(3).backward()
        optimizer.step()
    update_bn([smooth(64, *IMAGES)], model)
    return model.eval()


@pytest.mark.parametrize(("direction", "code"), [(1, "BN108"), (-1, "BN109")])
def test_bn108_and_bn109_hit_a_channel_that_large_steps_pushed_away(direction, code):
    model, x = pushed(direction), smooth(64, *IMAGES, seed=2)
    (finding,) = found(model, code)
    assert (finding.severity, finding.channels) == ("info", (4,))
    (measured,) = found(model, "BN412", x)
    assert measured.channels == (4,)
    with torch.no_grad():
        share = (model(x)[:, 4] > 0).float().mean()
    assert share == (1 if direction < 0 else 0)
