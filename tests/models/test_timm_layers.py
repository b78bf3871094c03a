"""The normalisation layers of timm: each BatchNorm is found, whatever its class, and measured where it normalises."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
from timm.layers import (
    BatchNormAct2d,
    FrozenBatchNormAct2d,
    ScaledStdConv2d,
    StdConv2d,
    SyncBatchNormAct,
    convert_sync_batchnorm,
    freeze_batch_norm_2d,
)
from torch import nn

import bninspect

# class of the layers, and how many timm's own definition of the network has
MODELS = {
    "resnet18": ("BatchNorm2d", 20),
    "mobilenetv3_small_050": ("BatchNormAct2d", 34),
    "test_efficientnet": ("BatchNormAct2d", 13),
    "test_byobnet": ("BatchNormAct2d", 14),
}


def made(name):
    """The network, with statistics and weights that differ from channel to channel."""
    torch.manual_seed(0)
    net = timm.create_model(name)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
    return net


def twin(net, batch, kinds):
    """Mean and biased variance of what each layer is given, by a hook of this file in float64."""
    net, found = copy.deepcopy(net).eval(), {}

    def look(path):
        def hook(_, args):
            x = args[0].double()
            found[path] = x.mean((0, 2, 3)).numpy(), x.var((0, 2, 3), correction=0).numpy()

        return hook

    for path, module in net.named_modules():
        if isinstance(module, kinds):
            module.register_forward_pre_hook(look(path))
    with torch.no_grad():
        net(batch)
    return found


def agree(report, expected):
    assert [layer.path for layer in report.layers] == list(expected)
    for layer in report.layers:
        mean, var = expected[layer.path]
        assert np.all(np.abs(layer.channels.mean - mean) <= 1e-6 * np.sqrt(var))
        np.testing.assert_allclose(layer.channels.var, var, rtol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_is_found_and_its_input_measured(name):
    kind, number = MODELS[name]
    net, batch = made(name), torch.randn(3, 3, 32, 32)
    report = bninspect.stats(net, batch)
    assert len(report.layers) == number
    assert {layer.kind for layer in report.layers} == {kind}
    agree(report, twin(net, batch, nn.BatchNorm2d))
    assert report.functional_calls == ()
    summary = bninspect.summary(net, (3, 32, 32))
    assert sorted(layer.path for layer in summary.layers) == sorted(layer.path for layer in report.layers)
    assert summary.totals.num_batchnorm == number


def test_it_is_the_input_and_not_the_activation():
    """A layer with its activation inside: what it puts out is never below zero, what it normalises is."""
    layer = BatchNormAct2d(4)
    assert layer(torch.randn(2, 4, 5, 5)).min() >= 0
    (found,) = bninspect.stats(nn.Sequential(layer), torch.randn(8, 4, 5, 5)).layers
    assert (found.channels.min < 0).all()
    assert (found.channels.zero_fraction == 0).all()


@pytest.mark.parametrize(
    ("change", "kind"),
    [(freeze_batch_norm_2d, FrozenBatchNormAct2d), (convert_sync_batchnorm, SyncBatchNormAct)],
    ids=["frozen", "sync"],
)
def test_layers_that_were_frozen_or_converted(change, kind):
    net, batch = made("test_efficientnet"), torch.randn(3, 3, 32, 32)
    original = bninspect.stats(net, batch)
    changed = change(copy.deepcopy(net))
    report = bninspect.stats(changed, batch)
    assert {layer.kind for layer in report.layers} == {kind.__name__}
    agree(report, twin(changed, batch, kind))
    for layer, before in zip(report.layers, original.layers, strict=True):
        assert (layer.path, layer.eps, layer.num_features) == (before.path, before.eps, before.num_features)
        for name in ("weight", "bias", "running_mean", "running_var"):
            np.testing.assert_array_equal(getattr(layer.channels, name), getattr(before.channels, name))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("test_efficientnet_evos", "EvoNorm2dS0"),
        ("test_efficientnet_gn", "GroupNormAct"),
        ("test_vit", "LayerNorm"),
    ],
)
def test_other_normalisations_are_none(name, kind):
    net = timm.create_model(name)
    assert kind in {type(module).__name__ for module in net.modules()}
    size = net.default_cfg["input_size"]
    report = bninspect.stats(net, torch.randn(2, *size))
    assert report.layers == ()
    assert f"{type(net).__name__} has no BatchNorm layer" in report.notes
    assert bninspect.summary(net, size).layers == ()


@pytest.mark.parametrize("convolution", [StdConv2d, ScaledStdConv2d])
def test_a_weight_that_is_standardised_is_no_layer(convolution):
    """These convolutions normalise their weight by torch's batch_norm; activations that no module owns still count."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = convolution(3, 4, 3)

        def forward(self, x):
            return nn.functional.batch_norm(self.conv(x), None, None, training=True)

    for report in (bninspect.stats(Net(), torch.randn(2, 3, 8, 8)), bninspect.summary(Net(), (3, 8, 8))):
        assert [(call.path, call.calls) for call in report.functional_calls] == [("", 1)]
