"""An exported program as a live model: its mode, momentum and eps are in its graph, and what cannot be seen is told."""

from __future__ import annotations

import pytest
import torch
from healthy import calibrate, smooth, train_a_little
from torch import nn

import bninspect
from bninspect.observe.baked import baked
from bninspect.observe.layers import batchnorms, describe

IMAGES = (3, 16, 16)
BATCH = torch.export.Dim("batch", min=2, max=512)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8, eps=1e-3, momentum=0.05), nn.ReLU()]
    layers += [nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return calibrate(train_a_little(net), smooth(256, *IMAGES, seed=1))


def exported(model, *, training, lower=False):
    made = torch.export.export(model.train(training), (smooth(8, *IMAGES),), dynamic_shapes=({0: BATCH},))
    return (made.run_decompositions({}) if lower else made).module()


def codes(report):
    return {finding.code: finding.severity for finding in report.findings if finding.severity != "info"}


@pytest.mark.parametrize("lower", [False, True])
def test_bn209_hits_a_live_program_in_train_mode(model, lower):
    x = smooth(64, *IMAGES, seed=2)
    program = exported(model, training=True, lower=lower)
    with torch.no_grad():
        alone, beside = program(x[:32])[0], program(torch.cat([x[:1], 5 * x[1:32]]))[0]
    assert (alone - beside).abs().max() > 0.01
    for batch in (x, None):
        report = bninspect.check(program, batch, input_size=None if batch is not None else IMAGES)
        (finding,) = [finding for finding in report.findings if finding.code == "BN209"]
        assert [place.path for place in finding.layers] == ["1", "4"]
        assert "BN210" not in codes(report)


@pytest.mark.parametrize("lower", [False, True])
def test_bn209_misses_a_live_program_in_eval_mode(model, lower):
    report = bninspect.check(exported(model, training=False, lower=lower), smooth(64, *IMAGES, seed=2))
    assert codes(report) == {}


@pytest.mark.parametrize("training", [False, True])
def test_the_graph_says_what_the_layers_of_the_module_said(model, training):
    program = exported(model, training=training)
    said = baked(program)
    assert said.keys() == batchnorms(program).keys()
    for path, module in batchnorms(model).items():
        layer = describe(path, module)
        assert said[path] == (layer.training, layer.momentum, layer.eps)
    inside = nn.ModuleDict({"net": program})
    assert baked(inside) == {f"net.{path}": one for path, one in said.items()}
    assert baked(model) == {}


def test_rules_that_cannot_look_into_a_program_say_so(model):
    x = smooth(64, *IMAGES, seed=2)
    report = bninspect.check(exported(model, training=False), 3 * x + 20, batch_size=16)
    reasons = {silent.code: silent.reason for silent in report.silent}
    for code in ("BN402", "BN404", "BN406", "BN409"):
        assert reasons[code].startswith("an exported program shows none of its layers at work"), code
    assert "BN401" in codes(report)
    assert not {"BN211", "BN308"} & {finding.code for finding in report.findings}
