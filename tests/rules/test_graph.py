"""BN3xx: where layers stand, in small networks that have the fault and in real ones that have its look-alike."""

from __future__ import annotations

import pytest
import torch
from healthy import build, calibrate, smooth, train_a_little
from torch import nn

import bninspect


def found(model, code, batch=None, **options):
    return bninspect.check(model, batch, select=[code], **options).findings


def test_bn301_hits_all_layers_of_vgg_in_one_finding():
    (finding,) = found(build("vgg16_bn").train(), "BN301")
    assert (finding.severity, len(finding.layers)) == ("info", 13)
    assert finding.message.startswith("4224 bias parameters")
    assert sum(place.evidence["bias_parameters"] for place in finding.layers) == 4224


def test_bn301_misses_a_bias_that_is_used_elsewhere():
    assert not found(build("maxvit_t"), "BN301")
    assert not found(build("resnet18"), "BN301")


def test_bn301_misses_a_frozen_layer_in_training():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8))
    model.train()
    model[1].eval()
    assert not found(model, "BN301")
    assert found(model.eval(), "BN301")


def test_bn301_misses_the_bias_of_features_where_positions_are_normalised():
    """The gradient of such a bias is no rounding error, and folding would be wrong where both sizes are equal."""
    for length in (6, 8):
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(length))
        assert not found(model, "BN301", input_size=(length, 4))
        (finding,) = found(model, "BN308", input_size=(length, 4))
        assert "features of the linear layer" in finding.message
        (model(torch.randn(16, length, 4)) * torch.randn(16, length, 8)).sum().backward()
        assert model[0].bias.grad.abs().max() > 0.1
    assert found(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)), "BN301", input_size=(4,))


def dropout_before(p=0.5):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(p), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
    )


def test_bn302_hits_deeplab():
    (finding,) = found(build("deeplabv3_resnet50"), "BN302")
    assert (finding.severity, [place.path for place in finding.layers]) == ("info", ["classifier.2"])


def test_bn302_warns_where_training_with_dropout_raised_the_variance():
    model = train_a_little(dropout_before())
    model[1].momentum = model[5].momentum = None
    for seed in range(6):
        model.train()(smooth(32, 3, 16, 16, seed=seed))
    (finding,) = found(model, "BN302", smooth(64, 3, 16, 16, seed=9))
    assert (finding.severity, finding.path) == ("warning", "5")
    assert finding.evidence["running_var_over_var"] > 1.25


def test_bn302_misses_dropout_behind_and_of_nothing():
    behind = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(), nn.Conv2d(8, 8, 3))
    assert not found(behind, "BN302")
    assert not found(dropout_before(p=0.0), "BN302")
    assert not found(build("efficientnet_b0"), "BN302")


def test_bn302_does_not_warn_of_recalibrated_statistics():
    model = calibrate(train_a_little(dropout_before()), smooth(64, 3, 16, 16, seed=1))
    (finding,) = found(model, "BN302", smooth(64, 3, 16, 16, seed=9))
    assert finding.severity == "info"


def test_bn303_hits_two_in_a_row():
    (finding,) = found(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.BatchNorm1d(8)), "BN303")
    assert finding.path == "2"


def test_bn303_misses_what_stands_between():
    assert not found(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.BatchNorm1d(8)), "BN303")
    assert not found(build("densenet121"), "BN303")


class Siamese(nn.Module):
    """One layer on two branches, of which the second may be scaled."""

    def __init__(self, scale):
        super().__init__()
        self.conv, self.bn, self.scale = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=None), scale

    def forward(self, x):
        return self.bn(self.conv(x)) + self.bn(self.conv(self.scale * x))


def test_bn304_hits_a_shared_layer():
    (finding,) = found(Siamese(1.0), "BN304")
    assert (finding.severity, finding.evidence["calls"]) == ("info", 2)
    model = train_a_little(Siamese(8.0)).train()
    model(smooth(32, 3, 16, 16))
    (finding,) = found(model, "BN304", smooth(32, 3, 16, 16, seed=1))
    assert finding.severity == "warning"
    assert finding.evidence["var_ratio"] > 10


def test_bn304_misses_like_calls_and_names():
    model = train_a_little(Siamese(1.0)).train()
    model(smooth(32, 3, 16, 16))
    assert [finding.severity for finding in found(model, "BN304", smooth(32, 3, 16, 16, seed=1))] == ["info"]
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    model.alias = model[1]
    model.forward = lambda x: model[1](model[0](x))
    assert not found(model, "BN304")


def test_bn305_hits_auxiliary_heads():
    (finding,) = found(build("googlenet"), "BN305")
    assert (finding.severity, len(finding.layers)) == ("info", 2)


def test_bn305_misses_layers_that_run():
    assert not found(build("resnet18"), "BN305")


def test_bn306_hits_a_softmax_on_batchnorm():
    for end in ([], [nn.Softmax(1)], [nn.Flatten(), nn.Sigmoid()]):
        assert found(nn.Sequential(nn.Linear(8, 2), nn.BatchNorm1d(2), *end), "BN306")


def test_bn306_misses_a_linear_layer_behind():
    assert not found(nn.Sequential(nn.Linear(8, 2), nn.BatchNorm1d(2), nn.Linear(2, 2)), "BN306")
    assert not found(nn.Sequential(nn.Linear(8, 2), nn.BatchNorm1d(2), nn.ReLU()), "BN306")
    assert not found(build("mobilenet_v2"), "BN306")


class Sequence(nn.Module):
    """Embeddings of [N, L] into BatchNorm1d, right or wrong."""

    def __init__(self, features, *, swap):
        super().__init__()
        self.lstm, self.bn, self.swap = nn.LSTM(16, 24, batch_first=True), nn.BatchNorm1d(features), swap

    def forward(self, x):
        y, _ = self.lstm(x)
        return self.bn(y.transpose(1, 2)) if self.swap else self.bn(y)


def test_bn307_hits_a_forgotten_transpose():
    (finding,) = found(Sequence(36, swap=False), "BN307", input_size=(36, 16))
    assert (finding.severity, finding.evidence) == ("warning", {"num_features": 36, "width": 24})
    (finding,) = found(Sequence(24, swap=False), "BN307", input_size=(24, 16))
    assert finding.severity == "info"


def steps(*between):
    """Features of [N, 36, 16], changed value by value, into BatchNorm1d over the 36 steps."""
    return nn.Sequential(nn.Linear(16, 24), *between, nn.BatchNorm1d(36))


class Residual(nn.Module):
    """The same behind functions: an addition, a scale and a dropout."""

    def __init__(self):
        super().__init__()
        self.linear, self.bn = nn.Linear(16, 16), nn.BatchNorm1d(36)

    def forward(self, x):
        return self.bn(nn.functional.dropout(nn.functional.gelu(0.5 * self.linear(x) + x), 0.1, self.training))


@pytest.mark.parametrize(
    "between", [(nn.ReLU(),), (nn.Dropout(0.1),), (nn.Tanh(), nn.Dropout(0.0)), (nn.LayerNorm(24), nn.LeakyReLU())]
)
def test_bn307_hits_behind_what_changes_each_value_at_its_place(between):
    (finding,) = found(steps(*between), "BN307", input_size=(36, 16))
    assert (finding.severity, finding.evidence) == ("warning", {"num_features": 36, "width": 24})


def test_bn307_hits_behind_functions():
    (finding,) = found(Residual(), "BN307", input_size=(36, 16))
    assert finding.evidence == {"num_features": 36, "width": 16}


class Swap(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


def test_bn307_misses_a_transpose_behind_the_activation_and_convolutions():
    right = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), Swap(), nn.Dropout(0.1), nn.BatchNorm1d(24))
    assert not found(right, "BN307", input_size=(36, 16))
    mixed = nn.Sequential(Swap(), nn.Linear(36, 20), nn.ReLU(), nn.BatchNorm1d(16))
    assert not found(mixed, "BN307", input_size=(36, 16))
    assert not found(nn.Sequential(nn.Conv1d(36, 36, 1), nn.ReLU(), nn.BatchNorm1d(36)), "BN307", input_size=(36, 16))


class Mixer(nn.Module):
    """Positions are mixed between two transposes, and normalised by feature: [N, C, L] throughout."""

    def __init__(self):
        super().__init__()
        self.mix, self.bn = nn.Linear(36, 20), nn.BatchNorm1d(16)

    def forward(self, x):
        return self.bn(self.mix(x.transpose(1, 2)))


def test_bn307_misses_transposes_and_images():
    assert not found(Sequence(24, swap=True), "BN307", input_size=(36, 16))
    assert not found(Mixer(), "BN307", input_size=(36, 16))
    assert not found(build("resnet18"), "BN307")


def test_bn308_hits_layers_behind_a_concatenation():
    (finding,) = found(build("densenet121"), "BN308")
    assert (finding.severity, len(finding.layers)) == ("info", 62)
    grouped = nn.Sequential(nn.ConvTranspose2d(4, 8, 3, groups=2), nn.BatchNorm2d(8))
    (finding,) = found(grouped, "BN308", input_size=(4, 8, 8))
    assert finding.evidence == {"groups": 2}


def test_bn308_misses_resnet():
    assert not found(build("resnet50"), "BN308")


def shrunk(scale=1e-6, bias=0.5):
    """Filters near zero behind a bias, and a gain that makes up for them: nothing but rounding is left of the fold."""
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 8, 3)
    nn.init.constant_(conv.bias, bias)
    conv.weight.data.mul_(scale)
    norm = nn.BatchNorm2d(8)
    model = calibrate(nn.Sequential(conv, norm).double(), smooth(32, 3, 16, 16, seed=1).double())
    norm.weight.data = ((norm.running_var + norm.eps) / norm.running_var).sqrt()
    return model.float()


def test_bn308_hits_a_large_gain_on_a_tiny_running_var():
    model, x = shrunk(), smooth(4, 3, 16, 16, seed=2)
    assert model[1].running_var.max() < 1e-12
    (finding,) = found(model, "BN308", x)
    assert (finding.severity, finding.path) == ("info", "1")
    with torch.no_grad():
        wrong = nn.utils.fusion.fuse_conv_bn_eval(model[0], model[1])(x[:1]) - model(x[:1])
        expected = wrong.abs().max() / model(x[:1]).square().mean().sqrt()
    assert finding.evidence == {"relative_change": pytest.approx(float(expected), rel=1e-5)}
    assert expected > 0.05


def test_bn308_misses_a_tiny_running_var_that_loses_nothing():
    x = smooth(4, 3, 16, 16, seed=2)
    assert not found(shrunk(bias=0.0), "BN308", x)  # no mean to take away
    model = shrunk()
    nn.init.ones_(model[1].weight)  # eps rules: the output is beta, folded or not
    nn.init.constant_(model[1].bias, 0.1)
    assert not found(model, "BN308", x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_bn308_misses_what_any_folding_rounds(dtype):
    model = calibrate(train_a_little(build("resnet18")), smooth(32, 3, 32, 32, seed=1)).to(dtype)
    assert not found(model, "BN308", smooth(2, 3, 32, 32, seed=2).to(dtype))


def test_bn308_says_what_it_did_not_measure():
    (silent,) = bninspect.check(build("resnet18"), select=["BN308"]).silent
    assert "not measured: no batch was given" in silent.reason
    model = calibrate(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), smooth(8, 3, 8, 8))
    nn.utils.parametrizations.weight_norm(model[0])
    (silent,) = bninspect.check(model, smooth(8, 3, 8, 8), select=["BN308"]).silent
    assert "could not be measured" in silent.reason
    assert silent.layers == ("1",)


@pytest.mark.parametrize("inplace", [True, False])
def test_a_tensor_written_in_place_has_a_new_origin(inplace):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu, self.bn = nn.Conv2d(3, 3, 1), nn.ReLU(inplace=inplace), nn.BatchNorm2d(3)

        def forward(self, x):
            y = self.conv(x)
            z = self.relu(y)
            return self.bn(z) + z

    assert not found(Residual(), "BN301", input_size=(3, 8, 8))
    (finding,) = found(Residual(), "BN308", input_size=(3, 8, 8))
    assert "no convolution" in finding.message


def test_functions_count_as_readers_and_origins():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias, self.bn = nn.Parameter(torch.randn(4, 3, 1, 1)), nn.Parameter(torch.zeros(4)), None
            self.bn = nn.BatchNorm2d(4)

        def forward(self, x):
            return nn.functional.relu(self.bn(nn.functional.conv2d(x, self.weight, self.bias)))

    (finding,) = found(Functional(), "BN301", input_size=(3, 8, 8))
    assert finding.evidence == {"bias_parameters": 4}


def test_calls_of_batch_norm_without_a_module_are_noted():
    class Loose(nn.Module):
        def forward(self, x):
            return nn.functional.batch_norm(x, None, None, training=True)

    report = bninspect.check(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), Loose()))
    assert any("1 calls of batch_norm in 2" in note for note in report.notes)


def test_rules_on_the_graph_say_that_they_know_no_input():
    report = bninspect.check(nn.Sequential(nn.Embedding(10, 4), nn.BatchNorm1d(4)), select=["BN3"])
    assert not report.findings
    assert {silent.code for silent in report.silent} == {f"BN30{digit}" for digit in range(1, 9)}
    assert "input_size" in report.silent[0].reason
