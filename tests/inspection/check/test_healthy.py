"""Silence on healthy networks."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from healthy import LIVE, build, calibrate, grave, smooth, train_a_little
from torch import nn
from torchvision import models
from torchvision.ops import FrozenBatchNorm2d

import bninspect
from bninspect.observe.layers import batchnorms

VIDEO = models.list_models(models.video)


@pytest.mark.parametrize("name", LIVE)
def test_all_rules_are_silent_on_healthy_networks(name, one_thread):
    """On a calibrated network and other images, in eval mode; and on its state and graph in train mode."""
    size = (3, 4, 24, 24) if name in VIDEO else (3, 75, 75) if "incept" in name else (3, 48, 48)
    model = calibrate(train_a_little(build(name)), smooth(64, *size, seed=1))
    for module in batchnorms(model).values():
        module.num_batches_tracked.fill_(100_000)  # enough for the momentum of MNASNet, 0.0003
    report = bninspect.check(model, smooth(32, *size, seed=2))
    assert report.num_images == 32
    assert not grave(report)
    silent = {one.code for one in report.silent}
    assert silent <= {"BN402", "BN403", "BN404", "BN405", "BN406", "BN407", "BN408", "BN409", "BN412"}
    report = bninspect.check(model.train(), input_size=size, batch_size=32)
    assert not grave(report)
    assert [one.code for one in report.silent if one.code < "BN4" and "not measured" not in one.reason] == []


def test_the_catalogue_of_healthy_networks_is_large_enough():
    assert len(set(LIVE)) >= 40
    assert set(LIVE) <= set(models.list_models())


def old_checkpoint():
    """A state dict of old, without num_batches_tracked, loaded into a new model."""
    state = calibrate(train_a_little(build("resnet18")), smooth(64, 3, 64, 64, seed=1)).state_dict()
    model = build("resnet18")
    model.load_state_dict({name: value for name, value in state.items() if "num_batches_tracked" not in name})
    assert not model.bn1.num_batches_tracked
    return model, smooth(32, 3, 64, 64, seed=2)


def raw_pixels():
    """Trained on images of 0 to 255: running_var of the first layer is in the thousands."""
    model = calibrate(train_a_little(build("resnet18")), 128 + 60 * smooth(64, 3, 64, 64, seed=1))
    assert model.bn1.running_var.max() > 1000
    return model, 128 + 60 * smooth(32, 3, 64, 64, seed=2)


def zero_init_residual():
    """The last gamma of each block starts at zero, and a few stay there."""
    model = train_a_little(models.resnet18(weights=None, zero_init_residual=True))
    for block in (model.layer1[0], model.layer3[1]):
        nn.init.zeros_(block.bn2.weight)
    return calibrate(model, smooth(64, 3, 64, 64, seed=1)), smooth(32, 3, 64, 64, seed=2)


def frozen_backbone():
    """FrozenBatchNorm2d with eps 0, as the published detection weights have it, and statistics of its own."""
    norm = partial(FrozenBatchNorm2d, eps=0.0)
    model = models.resnet18(weights=None, norm_layer=norm)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            nn.init.uniform_(module.weight, 0.7, 1.3)

    def fit(module, args):
        var, mean = torch.var_mean(args[0], (0, 2, 3), correction=0)
        module.running_mean.copy_(mean)
        module.running_var.copy_(var)

    handles = [module.register_forward_pre_hook(fit) for module in batchnorms(model).values()]
    with torch.no_grad():
        model.eval()(smooth(64, 3, 64, 64, seed=1))
    for handle in handles:
        handle.remove()
    return model, smooth(32, 3, 64, 64, seed=2)


@pytest.mark.parametrize("make", [old_checkpoint, raw_pixels, zero_init_residual, frozen_backbone])
def test_all_rules_are_silent_on_what_looks_like_a_fault(make):
    model, x = make()
    report = bninspect.check(model, x)
    assert report.num_images == 32
    assert not grave(report)
    assert not grave(bninspect.check(model.train(), input_size=(3, 64, 64)))
