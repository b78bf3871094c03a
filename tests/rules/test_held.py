"""BatchNorm layers that a convolution or a linear layer holds: they run, and are judged as any others."""

from __future__ import annotations

import warnings

import pytest
import torch
from healthy import calibrate, smooth, train_a_little
from torch import nn
from torch.ao import quantization
from torch.ao.nn.intrinsic import qat
from torchvision.models.quantization import mobilenet_v2

import bninspect


class Conv(nn.Conv2d):
    """A convolution with what follows it, as detectron2 has it."""

    def __init__(self, *sizes, norm=None, activation=None, **settings):
        super().__init__(*sizes, **settings)
        self.norm, self.activation = norm, activation

    def forward(self, x):
        for layer in (super().forward, self.norm, self.activation):
            x = layer(x) if layer else x
        return x


class Linear(nn.Linear):
    def __init__(self, *sizes, norm, **settings):
        super().__init__(*sizes, **settings)
        self.norm = norm

    def forward(self, x):
        return self.norm(super().forward(x))


class Deconv(nn.ConvTranspose2d):
    def __init__(self, *sizes, norm, **settings):
        super().__init__(*sizes, **settings)
        self.norm = norm

    def forward(self, x):
        return self.norm(super().forward(x))


def found(model, code, batch=None, size=(3, 8, 8), **options):
    return bninspect.check(model, batch, input_size=size, select=[code], **options).findings


def held(**settings):
    return nn.Sequential(Conv(3, 8, 3, norm=nn.BatchNorm2d(8), **settings), nn.ReLU(), nn.Conv2d(8, 2, 1))


HELD = {
    "conv": (lambda: nn.Sequential(Conv(3, 8, 3, norm=nn.BatchNorm2d(8))), (3, 8, 8)),
    "linear": (lambda: nn.Sequential(Linear(5, 8, norm=nn.BatchNorm1d(8))), (5,)),
    "transposed": (lambda: nn.Sequential(Deconv(3, 8, 3, norm=nn.BatchNorm2d(8))), (3, 8, 8)),
    "root": (lambda: Conv(3, 8, 3, norm=nn.BatchNorm2d(8)), (3, 8, 8)),
}


@pytest.mark.parametrize("kind", HELD)
def test_a_held_layer_runs_and_has_the_layer_that_holds_it_before_it(kind):
    make, size = HELD[kind]
    model = train_a_little(make())
    assert not found(model, "BN305", size=size)
    assert [finding.severity for finding in found(model.train(), "BN104", size=size)] == ["error"]
    (finding,) = found(model, "BN301", size=size)
    assert finding.evidence == {"bias_parameters": 8}
    assert not found(model, "BN308", size=size)


def test_what_a_held_layer_misses():
    assert not found(held(bias=False), "BN301")
    assert not found(calibrate(train_a_little(held()), smooth(64, 3, 8, 8)), "BN104")
    unused = held()
    unused[0].aux = nn.BatchNorm2d(8)
    assert [finding.path for finding in found(unused, "BN305")] == ["0.aux"]


def test_a_convolution_with_its_activation_is_two_operations():
    model = nn.Sequential(Conv(3, 8, 3, activation=nn.ReLU()), nn.BatchNorm2d(8))
    assert not found(model, "BN301")
    (finding,) = found(model, "BN308")
    assert finding.message == "cannot be folded: the input comes from no convolution or linear layer"
    model[0].activation = None
    assert found(model, "BN301")
    assert not found(model, "BN308")


def test_the_relu_behind_a_held_layer_is_seen():
    model = calibrate(train_a_little(held()), smooth(64, 3, 8, 8))
    with torch.no_grad():
        model[0].norm.bias[2] = -30
    (finding,) = found(model, "BN108")
    assert (finding.path, finding.channels) == ("0.norm", (2,))


def test_a_held_layer_that_two_convolutions_share_is_seen():
    norm = nn.BatchNorm2d(8)
    model = nn.Sequential(Conv(3, 8, 3, norm=norm), nn.ReLU(), Conv(8, 8, 3, norm=norm))
    (finding,) = found(model, "BN304")
    assert finding.evidence["calls"] == 2


def test_folding_of_a_held_layer_is_not_measured_and_that_is_said():
    model = calibrate(train_a_little(held()), smooth(64, 3, 8, 8))
    report = bninspect.check(model, smooth(40, 3, 8, 8, seed=1), select=["BN308"])
    assert not report.findings
    assert [(one.layers, "holds its BatchNorm" in one.reason) for one in report.silent] == [(("0.norm",), True)]


class Domains(nn.BatchNorm2d):
    """A BatchNorm that hands over to one of those it holds."""

    def __init__(self):
        super().__init__(8)
        self.each = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])

    def forward(self, x):
        return self.each[1](x)


def test_a_layer_inside_another_one_runs():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), Domains())
    assert [place.path for finding in found(model, "BN305") for place in finding.layers] == ["1.each.0"]


@pytest.fixture(scope="module")
def quantizable():
    torch.manual_seed(0)
    model = mobilenet_v2(weights=None, quantize=False).train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fuse_model(is_qat=True)
        model.qconfig = quantization.get_default_qat_qconfig("qnnpack")
        quantization.prepare_qat(model, inplace=True)
    return train_a_little(model).eval()


def test_layers_in_quantization_aware_training_run(quantizable):
    report = bninspect.check(quantizable, input_size=(3, 64, 64), select=["BN104", "BN301", "BN305", "BN308"])
    (finding,) = report.findings
    assert (finding.code, finding.severity, len(finding.layers)) == ("BN104", "warning", report.num_layers)


@pytest.mark.parametrize("slow", [False, True])
def test_a_bias_before_a_layer_in_quantization_aware_training_is_seen(slow):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = quantization.get_default_qat_qconfig("qnnpack")
    for bias in (True, False):
        model = nn.Sequential(qat.ConvBnReLU2d(3, 8, 3, bias=bias, qconfig=config))
        model[0]._enable_slow_path_for_better_numerical_stability = slow
        hits = found(model, "BN301")
        assert [finding.evidence["bias_parameters"] for finding in hits] == ([8] if bias and not slow else [])
