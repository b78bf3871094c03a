"""BN2xx: modes and settings, each set as users set them."""

from __future__ import annotations

import warnings

import pytest
import torch
from healthy import build, train_a_little
from torch import nn
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

import bninspect
from bninspect.models.stored.reading import read
from bninspect.report import Source


def small(**settings):
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8, **settings), nn.ReLU())


def found(model, code, batch=None, **options):
    return bninspect.check(model, batch, select=[code], **options).findings


def test_bn201_hits_a_switch_after_construction():
    model = small()
    model(torch.randn(4, 3, 8, 8))
    model[1].track_running_stats = False
    assert [finding.severity for finding in found(model, "BN201")] == ["error"]
    assert [finding.severity for finding in found(model.eval(), "BN201")] == ["warning"]


def test_bn201_misses_a_layer_built_without_statistics():
    assert not found(small(track_running_stats=False), "BN201")
    assert not found(small(), "BN201")


def test_bn202_hits_a_layer_without_statistics():
    (finding,) = found(small(track_running_stats=False), "BN202")
    assert (finding.severity, finding.path) == ("warning", "1")


def test_bn202_only_tells_of_test_time_adaptation():
    model = small()
    model.requires_grad_(False)
    model[1].requires_grad_(True)
    model[1].track_running_stats = False
    model[1].running_mean = model[1].running_var = None
    assert [finding.severity for finding in found(model, "BN202")] == ["info"]


def test_bn202_misses_ordinary_layers():
    assert not found(small(), "BN202")


def test_bn203_hits_a_backbone_frozen_by_requires_grad():
    model = small()
    model[1].requires_grad_(False)
    model.train()
    before = model[1].running_mean.clone()
    model(torch.randn(4, 3, 8, 8))
    assert not torch.equal(before, model[1].running_mean)
    (finding,) = found(model, "BN203")
    assert (finding.severity, finding.evidence) == ("warning", {"momentum": 0.1})


def test_bn203_misses_eval_mode_and_training():
    model = small()
    assert not found(model, "BN203")
    model.requires_grad_(False)
    assert not found(model.eval(), "BN203")


def test_bn204_hits_one_layer_in_eval():
    model = nn.Sequential(small(), nn.BatchNorm2d(8)).train()
    model[0].eval()
    (finding,) = found(model, "BN204")
    assert finding.evidence == {"num_train": 1, "num_eval": 1}
    assert finding.severity == "info"


def test_bn204_misses_frozen_classes():
    assert not found(nn.Sequential(small().train(), FrozenBatchNorm2d(8).eval()), "BN204")


def test_bn205_hits_a_decay_of_another_framework():
    (finding,) = found(small(momentum=0.99), "BN205")
    assert (finding.severity, finding.evidence) == ("warning", {"momentum": 0.99})
    (finding,) = found(small(momentum=1.0), "BN205")
    assert "last batch" in finding.message


def test_bn205_misses_usual_momenta():
    for momentum in (0.1, 0.01, 3e-4, None):
        assert not found(small(momentum=momentum), "BN205")


def test_bn206_hits_zero_in_training():
    model = small(momentum=0.0).train()
    model(torch.randn(4, 3, 8, 8))
    assert not model[1].running_mean.any()
    assert [finding.severity for finding in found(model, "BN206")] == ["warning"]


def test_bn206_misses_ways_to_freeze():
    model = small(momentum=0.0)
    assert not found(model.eval(), "BN206")
    model[1].requires_grad_(False)
    assert [finding.severity for finding in found(model.train(), "BN206")] == ["info"]


def test_bn207_hits_zero_and_what_vanishes_in_half():
    assert [finding.severity for finding in found(small(eps=0.0), "BN207")] == ["warning"]
    assert [finding.severity for finding in found(small(eps=1e-8).half(), "BN207")] == ["warning"]


def test_bn207_misses_detection_and_only_tells_of_mixed_settings():
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    overwrite_eps(backbone, 0.0)  # as the published detection weights ask for
    assert any(isinstance(module, FrozenBatchNorm2d) and module.eps == 0 for module in backbone.modules())
    assert not found(backbone, "BN207")
    for name in ("deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"):
        (finding,) = found(build(name), "BN207")
        assert (finding.severity, finding.evidence) == ("info", {"eps_min": 1e-5, "eps_max": 1e-3})


def test_bn208_hits_a_layer_cut_by_hand():
    model = train_a_little(small())
    model[1].weight = nn.Parameter(model[1].weight[:6])
    (finding,) = found(model, "BN208")
    assert (finding.severity, finding.evidence) == ("error", {"length_min": 6, "length_max": 8})
    model = small()
    for name in ("weight", "bias", "running_mean", "running_var"):
        vector = getattr(model[1], name).detach()[:6]
        setattr(model[1], name, nn.Parameter(vector) if name in ("weight", "bias") else vector)
    assert [finding.severity for finding in found(model, "BN208")] == ["info"]


def test_bn208_misses_plain_layers_and_negative_gamma():
    model = small(affine=False)
    assert not found(model, "BN208")
    model = small()
    nn.init.constant_(model[1].weight, -1)
    assert not found(model, "BN208")


@pytest.mark.parametrize("form", ["export", "script", "trace"])
def test_bn209_hits_programs_exported_in_train_mode_and_misses_those_of_eval_mode(form, tmp_path):
    x = torch.randn(4, 3, 8, 8)
    for training in (True, False):
        model, path = train_a_little(small()).train(training), str(tmp_path / f"{training}.{form}")
        if form == "export":
            torch.export.save(torch.export.export(model, (x,)), path + ".pt2")
            path += ".pt2"
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.jit.script(model) if form == "script" else torch.jit.trace(model, x, check_trace=False)
                program.save(path)
        stored = read(path)
        source = Source(model=path, model_kind=stored.kind, evidence=stored.evidence)
        findings = found(stored.layers, "BN209", source=source)
        assert [(finding.severity, finding.path) for finding in findings] == ([("warning", "1")] if training else [])


def test_bn209_hits_only_programs():
    assert not found(small().train(), "BN209")


def test_bn209_misses_layers_without_statistics(tmp_path):
    path = str(tmp_path / "program.pt2")
    program = torch.export.export(small(track_running_stats=False), (torch.randn(4, 3, 8, 8),))
    torch.export.save(program, path)
    stored = read(path)
    assert not found(stored.layers, "BN209", source=Source(model_kind=stored.kind, evidence=stored.evidence))


def test_bn210_hits_a_model_of_the_user_that_is_in_train_mode():
    model, x = train_a_little(small()), torch.randn(32, 3, 8, 8)
    (finding,) = found(model.train(), "BN210", x)
    assert (finding.severity, finding.evidence) == ("info", {"num_train": 1})


def test_bn210_misses_eval_mode_and_models_that_were_only_just_built():
    model, x = train_a_little(small()), torch.randn(32, 3, 8, 8)
    assert not found(model.eval(), "BN210", x)
    mixed = nn.Sequential(train_a_little(small()), nn.BatchNorm2d(8))
    mixed[1].eval()
    assert not found(mixed, "BN210", x)
    assert not found(model.train(), "BN210")
    built = Source(model="nets.py:model", model_kind="Python")
    assert not found(model.train(), "BN210", x, source=built)
