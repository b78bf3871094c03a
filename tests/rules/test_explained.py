"""Which finding follows from which: every pair on a real fault, and with its cause absent."""

from __future__ import annotations

import copy

import pytest
import torch
from healthy import calibrate, smooth, train_a_little
from torch import nn

import bninspect
from bninspect.rules import catalogue

IMAGES = (3, 16, 16)
FIRST, LAST = "1", "22"


def network(depth=8, width=16, dropout=0.0):
    torch.manual_seed(0)
    layers = []
    for index in range(depth):
        layers += [nn.Conv2d(width if index else 3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    layers.insert(12, nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))


@pytest.fixture(scope="module")
def batch():
    return smooth(64, *IMAGES, seed=2)


@pytest.fixture(scope="module")
def good():
    return calibrate(train_a_little(network()), smooth(64, *IMAGES, seed=1))


def reset(bn):
    """Statistics as a copy that averages parameters only has them."""
    bn.running_mean.zero_()
    bn.running_var.fill_(1)
    bn.num_batches_tracked.zero_()


def zero(bn):
    bn.running_mean.zero_()
    bn.running_var.zero_()


def replace(bn):
    """What load_state_dict(strict=False) leaves."""
    reset(bn)
    nn.init.ones_(bn.weight)
    nn.init.zeros_(bn.bias)


def young(bn):
    """Ten updates of the statistics that the layer should have."""
    left = 0.9**10
    bn.running_mean.mul_(1 - left)
    bn.running_var.mul_(1 - left).add_(left)
    bn.num_batches_tracked.fill_(10)


def layers(model):
    return [module for module in model if isinstance(module, nn.BatchNorm2d)]


def stretched(model):
    """Inputs of every layer lie at 40 instead of 0: statistics that do not fit are far off."""
    with torch.no_grad():
        for module in model:
            if isinstance(module, nn.Conv2d):
                module.weight.mul_(40)
    return model


def findings(model, x, **options):
    return bninspect.check(model, x, **options).findings


def explained(model, x, **options):
    """By code, the codes that explain it."""
    return {finding.code: finding.explained_by for finding in findings(model, x, **options) if finding.explained_by}


FAULTS = {"BN103": zero, "BN104": reset, "BN114": replace, "BN113": young}


@pytest.mark.parametrize("code", FAULTS)
def test_statistics_that_are_wrong_in_themselves_explain_what_data_show(code, good, batch):
    model = calibrate(stretched(copy.deepcopy(good)), smooth(64, *IMAGES, seed=1))
    chosen = layers(model)[3:4] if code == "BN114" else layers(model)
    for bn in chosen:
        FAULTS[code](bn)
    found = {finding.code: finding for finding in findings(model, batch)}
    assert code in found
    assert set(found["BN401"].explained_by) - {"BN402"} == {code}  # a change of the input may seem to help, too
    assert not found[code].explained_by
    assert all(code in found[other].explained_by for other in ("BN402", "BN403", "BN404") if other in found)
    absent = {finding.code: finding for finding in findings(model, batch, ignore=[code])}
    assert all(code not in finding.explained_by for finding in absent.values())


def test_every_pair_is_declared_beside_its_rule():
    declared = {(code, other) for code, rule in catalogue().items() for other in rule.explains}
    data = ("BN401", "BN402", "BN403", "BN404")
    assert declared >= {(cause, other) for cause in FAULTS for other in data}
    assert declared >= {("BN402", "BN401"), ("BN402", "BN404"), ("BN302", "BN401"), ("BN302", "BN404")}
    assert all(other in catalogue() for _, other in declared)


def test_a_fault_deeper_down_does_not_explain_what_is_off_before_it(good, batch):
    model = copy.deepcopy(good)
    zero(layers(model)[6])
    layers(model)[2].running_mean.add_(9)
    assert "BN103" in {finding.code for finding in findings(model, batch)}
    assert "BN401" not in explained(model, batch)


def test_a_layer_that_does_not_run_explains_nothing(good, batch):
    class WithUnused(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.unused = copy.deepcopy(good), nn.BatchNorm2d(4)
            zero(self.unused)

        def forward(self, x):
            return self.net(x)

    model = WithUnused().eval()
    layers(model.net)[0].running_mean.add_(9)
    codes = {finding.code for finding in findings(model, batch)}
    assert {"BN103", "BN401"} <= codes
    assert not explained(model, batch)


def test_a_wrong_preparation_explains_layers_and_predictions(good, batch):
    trained = calibrate(copy.deepcopy(good), (smooth(64, *IMAGES, seed=1) + 2) / 4)
    x = 255 * (batch + 2) / 4
    found = explained(trained, x)
    assert (found["BN401"], found["BN404"]) == (("BN402",), ("BN402",))
    assert explained(trained, x, ignore=["BN402"]) == {}


def test_dropout_explains_what_it_inflated(batch):
    model = train_a_little(network(dropout=0.6))
    for bn in layers(model):
        bn.momentum = None
    for seed in range(6):
        model.train()(smooth(64, *IMAGES, seed=seed))
    model.eval()
    found = {finding.code: finding for finding in findings(model, batch)}
    assert found["BN302"].severity == "warning"
    assert found["BN401"].explained_by == ("BN302",)
    assert explained(model, batch, ignore=["BN302"]) == {}


def test_what_is_only_told_explains_nothing(good, batch):
    """A layer as new whose gamma is 0 lets nothing through, whatever its statistics."""
    model = calibrate(stretched(copy.deepcopy(good)), smooth(64, *IMAGES, seed=1))
    replace(layers(model)[3])
    nn.init.zeros_(layers(model)[3].weight)
    found = {finding.code: finding for finding in findings(model, batch)}
    assert found["BN114"].severity == "info"
    assert found["BN401"].path == found["BN114"].path
    assert not found["BN401"].explained_by


def nan(bn):
    bn.running_mean.fill_(float("nan"))


def negative(bn):
    bn.running_var.neg_()


@pytest.mark.parametrize(("code", "spoil"), [("BN101", nan), ("BN102", negative)])
def test_values_without_an_output_explain_what_is_not_finite_behind(code, spoil, good, batch):
    model = copy.deepcopy(good)
    spoil(layers(model)[3])
    found = {finding.code: finding for finding in findings(model, batch)}
    assert found["BN411"].explained_by == (code,)
    assert not found[code].explained_by
    broken = batch.clone()
    broken[5, 1, 3, 3] = float("nan")
    found = {finding.code: finding for finding in findings(model, broken)}
    assert {"BN411", code} <= set(found)
    assert not found["BN411"].explained_by


def test_a_negative_variance_at_the_first_layer_is_no_matter_of_the_input(good, batch):
    model = calibrate(copy.deepcopy(good), batch + 1)
    first = layers(model)[0]
    mean, var = first.running_mean.clone(), first.running_var.clone()
    first.running_mean.copy_(var), first.running_var.copy_(mean)
    codes = {finding.code for finding in findings(model, batch)}
    assert "BN102" in codes
    assert "BN402" not in codes


def test_a_healthy_model_has_nothing_to_explain(good, batch):
    assert explained(good, batch) == {}


def test_a_new_layer_that_fits_the_data_explains_nothing(good, batch):
    x = (batch - batch.mean((0, 2, 3), keepdim=True)) / batch.std((0, 2, 3), keepdim=True)
    model = calibrate(nn.Sequential(nn.BatchNorm2d(3), *copy.deepcopy(good)), x)
    reset(model[0])
    layers(model)[4].running_mean.add_(9)
    codes = {finding.code for finding in findings(model, x)}
    assert {"BN114", "BN401"} <= codes
    assert not explained(model, x)
