"""Folding measured on one image, against folding by hand in float64 and against torch's own."""

from __future__ import annotations

import math

import pytest
import torch
from healthy import calibrate, smooth, train_a_little
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from bninspect.inspection.check.fold import Folding, folded, relative_change
from bninspect.observe import graph
from bninspect.observe.shadow import shadow

LAYERS = {
    "conv1d": (nn.Conv1d(3, 6, 3, padding=1, padding_mode="circular"), nn.BatchNorm1d(6), (3, 12)),
    "conv2d": (nn.Conv2d(3, 6, 3, stride=2, groups=3, bias=False), nn.BatchNorm2d(6), (3, 12, 12)),
    "conv3d": (nn.Conv3d(3, 6, 3, dilation=2), nn.BatchNorm3d(6, affine=False), (3, 8, 8, 8)),
    "transposed": (nn.ConvTranspose2d(3, 6, 3, stride=2, output_padding=1), nn.BatchNorm2d(6), (3, 6, 6)),
    "linear": (nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6, affine=False), (5,)),
    "frozen": (nn.Conv2d(3, 6, 1), FrozenBatchNorm2d(6), (3, 8, 8)),
}


def pair(name):
    torch.manual_seed(0)
    layer, norm, shape = LAYERS[name]
    x = torch.randn(16, *shape)
    return calibrated(nn.Sequential(layer, norm), x), x


def calibrated(model, x):
    """As ``calibrate``, for FrozenBatchNorm2d too, which counts no batches."""
    with torch.no_grad():
        var, mean = torch.var_mean(model[0](x).double(), [0, *range(2, model[0](x).dim())], correction=0)
    model[1].running_mean.copy_(mean)
    model[1].running_var.copy_(var)
    if isinstance(model[1], FrozenBatchNorm2d):
        model[1].weight.uniform_(0.5, 1.5)
    return train_a_little(model).eval()


def by_hand(model, x):
    """``gamma (W x + b - mean) / sqrt(var + eps) + beta`` in float64, with weight and bias multiplied out first."""
    layer, norm = model[0], model[1]
    gamma = 1.0 if norm.weight is None else norm.weight.double()
    beta = 0.0 if norm.bias is None else norm.bias.double()
    gain = gamma / (norm.running_var.double() + norm.eps).sqrt()
    bias = 0.0 if layer.bias is None else layer.bias.double()
    axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    shape = [-1 if dim == axis else 1 for dim in range(layer.weight.dim())]
    fresh = {"weight": layer.weight.double() * gain.reshape(shape)}
    if layer.bias is not None:
        fresh["bias"] = torch.zeros_like(layer.bias, dtype=torch.float64)
    product = torch.func.functional_call(layer, fresh, (x.double(),))
    offset = (bias - norm.running_mean.double()) * gain + beta
    return product + offset.reshape([1, -1] + [1] * (product.dim() - 2))


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_folding_is_that_of_float64_by_hand(name):
    model, x = pair(name)
    expected = by_hand(model, x)
    torch.testing.assert_close(model(x).double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(folded(*model).forward(x).double(), expected, rtol=1e-4, atol=1e-5)
    change = relative_change(*model, x[:1])
    rounding = (folded(*model).forward(x[:1]).double() - model(x[:1]).double()).abs().max()
    size = expected[:1].square().mean().sqrt()
    assert 0 <= change < 1e-5
    assert change == pytest.approx(float(rounding / size), rel=1e-4, abs=5e-7)


@torch.no_grad()
def test_the_change_is_the_loss_that_the_means_predict():
    """``b'`` is rounded at ``|mean| / std`` times the spacing of float32: so large, and no larger, is the change."""
    model, x = pair("conv2d")
    for offset in (1e3, 1e4, 1e5):
        model = calibrated(model, x + offset)
        ratio = float((model[1].running_mean.abs() / model[1].running_var.sqrt()).max())
        change = relative_change(*model, x[:1] + offset)
        assert 0.1 < change / (ratio * torch.finfo(torch.float32).eps) < 10


@torch.no_grad()
def test_layers_are_left_and_memory_is_not_shared():
    model, x = pair("conv2d")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = dict(model.named_parameters())
    twin = folded(*model)
    twin.weight.zero_()
    twin.bias.zero_()
    relative_change(*model, x[:1])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name: id(value) for name, value in parameters.items()} == {
        name: id(value) for name, value in model.named_parameters()
    }
    assert model[0].bias is None


@torch.no_grad()
def test_what_overflows_is_infinite_and_what_is_not_finite_is_no_measure():
    model, x = pair("conv2d")
    model.half()
    model[1].weight.fill_(60_000)
    model[1].running_var.fill_(1e-7)
    model[1].running_mean.zero_()
    zeros = torch.zeros_like(x[:1]).half()
    assert model(zeros).isfinite().all()
    assert relative_change(*model, zeros) == math.inf
    model[1].running_var.fill_(torch.nan)
    assert relative_change(*model, zeros) is None


class Twice(nn.Module):
    """One convolution before two layers, called for each: what is measured is each layer's own call."""

    def __init__(self):
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        far, near = self.conv(100 * x + 1e6), self.conv(x)
        return self.b(near) + self.a(far)


@torch.no_grad()
def test_only_the_call_that_feeds_the_layer_counts():
    model = calibrate(Twice(), smooth(16, 3, 8, 8))
    x = smooth(3, 3, 8, 8, seed=1)
    seen, _ = graph.watch(shadow(model, device=torch.device("meta")), (x.to("meta"),), what="")
    folding = Folding(model, seen)
    model(x)
    assert set(folding.found) == {"b"}
    assert folding.found["b"][0] < 1e-5
    assert folding.found["b"][1] == torch.finfo(torch.float32).eps
    model.conv.weight.data.fill_(torch.inf)
    found = dict(folding.found)
    model(x)  # measured once
    assert folding.found == found


class Overwriting(nn.Module):
    """Writes into the input of its convolution before BatchNorm has run."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        x = x + 1
        y = self.conv(x)
        x.zero_()
        return self.bn(y)


@torch.no_grad()
def test_an_input_that_is_overwritten_is_remembered():
    model, x = calibrate(Overwriting(), smooth(16, 3, 8, 8)), smooth(3, 3, 8, 8, seed=1)
    seen, _ = graph.watch(shadow(model, device=torch.device("meta")), (x.to("meta"),), what="")
    folding = Folding(model, seen)
    model(x)
    assert folding.found["bn"][0] < 1e-5
