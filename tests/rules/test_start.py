"""Layers and statistics that are as they began: one layer that never got its values, a count that was lost."""

from __future__ import annotations

import copy

import pytest
import torch
from healthy import build, calibrate, smooth, train_a_little
from small import small, train
from torch import nn
from torch.optim.swa_utils import update_bn
from torchvision.models import googlenet, resnet18
from torchvision.ops import FrozenBatchNorm2d

import bninspect
from bninspect.cli import _options as options
from bninspect.models import LiveModel
from bninspect.models.checkpoint import with_values
from bninspect.models.stored.reading import read


def found(model, code, batch=None, **options):
    return bninspect.check(model, batch, select=[code], **options).findings


def network(**settings):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8, **settings), nn.ReLU(),
        nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8, **settings), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2),
    )  # fmt: skip


def trained(model):
    """A short real training."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(16, 3, 8, 8)), torch.randint(2, (16,))).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def good():
    torch.manual_seed(0)
    return trained(network())


@pytest.fixture(scope="module")
def residual():
    return calibrate(train_a_little(resnet18()), smooth(4, 3, 64, 64))


def severities(model):
    """By severity, the paths that BN114 names."""
    return {
        finding.severity: [place.path for place in finding.layers] for finding in found(model, "BN114")
    }  # fmt: skip


def test_bn104_hits_an_average_of_parameters_alone():
    model = small()
    teacher = copy.deepcopy(model)
    train(model, 3)
    with torch.no_grad():
        for mean, value in zip(teacher.parameters(), model.parameters(), strict=True):
            mean.mul_(0.5).add_(value, alpha=0.5)
    (finding,) = found(teacher, "BN104")
    assert (finding.severity, finding.path) == ("error", "1")


@pytest.mark.parametrize("affine", [True, False])
def test_bn104_hits_momentum_0_whether_gamma_tells_or_not(affine):
    torch.manual_seed(0)
    model = trained(network(momentum=0, affine=affine))
    for finding in found(model, "BN104"):
        assert [place.path for place in finding.layers] == ["1", "4"]
    assert found(model, "BN104")[0].message.startswith("weights were trained" if affine else "batches were counted")
    assert not found(model, "BN105")
    assert not found(trained(network(affine=False)), "BN104")


def test_bn105_does_not_claim_what_no_gamma_tells():
    (finding,) = found(network(affine=False), "BN105")
    assert "or its statistics never moved" in finding.message
    assert found(network(), "BN105")[0].message == "the model is untrained"


def test_bn104_misses_what_looks_alike():
    model = train(small(), 3)
    assert not found(small(), "BN104")
    assert not found(model, "BN104")
    old = {name: value for name, value in model.state_dict().items() if "num_batches" not in name}
    loaded = small()
    loaded.load_state_dict(old)
    assert int(loaded[1].num_batches_tracked) == 0
    assert not found(loaded, "BN104")
    frozen = FrozenBatchNorm2d(8, eps=0.0)
    frozen.weight.uniform_(0.5, 1.5)
    assert not found(nn.Sequential(nn.Conv2d(3, 8, 3), frozen), "BN104")


def test_bn104_only_warns_where_all_layers_agree_in_eval():
    model = nn.Sequential(*small(), nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8)).eval()
    train_a_little(model)
    (finding,) = found(model, "BN104")
    assert (finding.severity, len(finding.layers)) == ("warning", 2)
    calibrate(model[:2], smooth(8, 3, 16, 16))
    (finding,) = found(model, "BN104")
    assert (finding.severity, finding.path) == ("error", "4")


def test_bn104_tells_of_a_layer_that_does_not_run_in_eval():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.aux = small(), small()

        def forward(self, x):
            return (self.main(x), self.aux(x)) if self.training else self.main(x)

    model = calibrate(train_a_little(Auxiliary()), smooth(8, 3, 16, 16))
    (finding,) = found(model, "BN104")
    assert (finding.severity, finding.path) == ("info", "aux.1")


def test_bn105_hits_new_models():
    for model in (resnet18(weights=None), resnet18(weights=None, zero_init_residual=True)):
        report = bninspect.check(model)
        assert [finding.code for finding in report.findings] == ["BN105"]
        assert report.findings[0].path is None


def test_bn105_misses_a_model_with_one_trained_layer():
    model = resnet18(weights=None)
    train_a_little(model.layer1[0])
    assert not found(model, "BN105")


def test_bn114_hits_a_layer_whose_key_was_renamed(good, tmp_path):
    state = {name.replace("4.", "block.4.", 1): value for name, value in good.state_dict().items()}
    model = network()
    model.load_state_dict(state, strict=False)
    assert severities(model.eval()) == {"warning": ["4"]}
    torch.save(model.state_dict(), tmp_path / "partly.pt")
    assert severities(read(str(tmp_path / "partly.pt")).layers) == {"warning": ["4"]}


def test_bn114_hits_a_stage_and_the_layers_of_another_domain(residual, good):
    model = copy.deepcopy(residual)
    model.layer4 = resnet18().layer4.eval()
    assert len(severities(model)["warning"]) == 5
    pair = nn.ModuleDict({"source": good[1], "target": nn.BatchNorm2d(8)})
    assert severities([*map_layers(pair)]) == {"warning": ["target"]}
    plain = nn.Sequential(good[0], good[1], nn.BatchNorm2d(8, affine=False))
    assert severities(plain.eval()) == {"warning": ["2"]}


def map_layers(model):
    from bninspect.observe.layers import batchnorms, describe

    return (describe(path, module) for path, module in batchnorms(model).items())


def test_bn114_only_tells_of_a_new_head_and_of_gamma_zero(residual, good):
    model = copy.deepcopy(residual)
    model.fc = nn.Sequential(nn.Linear(512, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    assert severities(model) == {"info": ["fc.1"]}
    assert severities(nn.DataParallel(model).module) == {"info": ["fc.1"]}
    wrapped = nn.ModuleDict({"net": nn.ModuleDict({"backbone": residual, "head": model.fc})})
    assert severities([*map_layers(wrapped)]) == {"info": ["net.head.1"]}
    silent = copy.deepcopy(good)
    silent[4] = nn.BatchNorm2d(8)
    nn.init.zeros_(silent[4].weight)
    assert severities(silent) == {"info": ["4"]}


def test_bn114_hits_a_new_module_that_also_runs_before_the_others(good):
    """What stands at both ends, in call order, is no head."""
    new = nn.ModuleDict({"first": nn.BatchNorm2d(3), "last": nn.BatchNorm2d(8)})
    first, last = map_layers(nn.ModuleDict({"head": new}))
    (body,) = map_layers(nn.ModuleDict({"body": nn.ModuleDict({"bn": good[1]})}))
    assert severities([body, first, last]) == {"info": ["head.first", "head.last"]}
    assert severities([first, body, last]) == {"warning": ["head.first", "head.last"]}


def test_bn114_only_tells_of_layers_that_do_not_run():
    model = googlenet(weights=None, init_weights=False, aux_logits=True)
    model = calibrate(model, smooth(4, 3, 64, 64))
    assert severities(model) == {"info": ["aux1.conv.bn", "aux2.conv.bn"]}


def test_bn114_misses_new_and_trained_models(good, residual):
    assert not severities(good)
    assert not severities(residual)
    assert not severities(network())
    assert not severities(train_a_little(network()))
    assert not severities(calibrate(build("resnet18"), smooth(4, 3, 64, 64)))


def cumulative(drop):
    """Statistics of a hundred batches, loaded with or without their count."""
    source = network(momentum=None)
    for seed in range(5):
        source(smooth(8, 3, 8, 8, seed=seed))
    state = {name: value for name, value in source.state_dict().items() if not (drop and name.endswith("tracked"))}
    model = network(momentum=None)
    model.load_state_dict(state, strict=False)
    return train_a_little(model)


def test_bn115_hits_statistics_that_lost_their_count():
    model = cumulative(drop=True).train()
    (finding,) = found(model, "BN115")
    assert (finding.severity, [place.path for place in finding.layers]) == ("warning", ["1", "4"])
    assert [finding.severity for finding in found(model.eval(), "BN115")] == ["info"]
    before = model[1].running_var.clone()
    x = 9 * torch.randn(2, 3, 8, 8)
    model.train()(x)
    expected = model[0](x).var((0, 2, 3))
    torch.testing.assert_close(model[1].running_var, expected)
    assert not torch.allclose(model[1].running_var, before, rtol=0.5)


def test_bn115_misses_counted_and_exponential_averages(good):
    assert not found(cumulative(drop=False).train(), "BN115")
    assert not found(network(momentum=None).train(), "BN115")
    model = copy.deepcopy(good).train()
    model[1].num_batches_tracked.zero_()
    assert not found(model, "BN115")


def test_statistics_that_moved_without_a_count_are_not_taken_for_converged(good):
    model = copy.deepcopy(good)
    assert not bninspect.check(model, select=["BN113"]).silent
    model[4].num_batches_tracked.zero_()
    (silent,) = bninspect.check(model, select=["BN113"]).silent
    assert silent.layers == ("4",)
    assert "num_batches_tracked is 0" in silent.reason


@pytest.fixture
def renamed(good, tmp_path):
    """A network, and a checkpoint of it that calls the last BatchNorm by another name."""
    state = {
        name.replace("4.", "norm.", 1) if name.startswith("4.") else name: v for name, v in good.state_dict().items()
    }
    path = str(tmp_path / "renamed.pt")
    torch.save(state, path)
    return path


def filled(path, make=network):
    """Findings of a model that was filled with what fits, as the command line does it."""
    model = with_values(LiveModel(name="net", kind="Python", build=make), path, strict=False)
    net = model.build().eval()
    return found(net, "BN116", source=options.source_of(model))


def test_bn116_hits_a_renamed_layer(renamed):
    (finding,) = filled(renamed)
    assert (finding.severity, finding.path, finding.evidence) == ("warning", "4", {"num_missing": 4})


def test_bn116_misses_whole_checkpoints_and_only_tells_of_a_classifier(good, tmp_path):
    path = str(tmp_path / "whole.pt")
    torch.save(good.state_dict(), path)
    assert not filled(path)
    state = {name: value for name, value in good.state_dict().items() if not name.startswith("7.")}
    torch.save(state, path)
    (finding,) = filled(path)
    assert (finding.severity, finding.told) == ("info", "7.weight, 7.bias")


def test_bn116_hits_a_convolution_inside_a_stage(residual, tmp_path):
    path = str(tmp_path / "resnet.pt")
    torch.save({k: v for k, v in residual.state_dict().items() if k != "layer2.0.conv1.weight"}, path)
    (finding,) = filled(path, resnet18)
    assert (finding.severity, finding.told) == ("warning", "layer2.0.conv1.weight")


def test_instance_norm_with_running_statistics_is_named():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, track_running_stats=True), nn.InstanceNorm2d(8), nn.BatchNorm2d(8)
    )
    report = bninspect.check(model, input_size=(3, 8, 8))
    assert "1 InstanceNorm2d layer with running statistics: not judged" in report.notes
    assert "1 InstanceNorm2d layer with running statistics: not judged" in bninspect.check(model[:2]).notes
    assert not any("InstanceNorm" in note for note in bninspect.check(network()).notes)
    stats = bninspect.stats(model, torch.randn(4, 3, 8, 8))
    assert "1 InstanceNorm2d layer with running statistics: not judged" in stats.notes


def test_bn113_misses_statistics_that_fit_the_data(good):
    """A recalibration counts its few batches, and leaves statistics of any size."""
    model, x = copy.deepcopy(good), 5 + 3 * torch.randn(64, 3, 8, 8)
    bninspect.recalibrate(model, [x])
    for index in (1, 4):
        model[index].num_batches_tracked.fill_(2)
        model[index].running_var += 1
    assert found(model, "BN113")
    bninspect.recalibrate(model, [x])
    assert not found(model, "BN113", x)
    for index in (1, 4):
        model[index].running_var.mul_(9).add_(1)
    assert [finding.path for finding in found(model, "BN113", x)] == ["1"]


@pytest.mark.parametrize(("momentum", "updates"), [(0.1, 44), (0.01, 459), (0.001, 4603), (3e-4, 15349)])
def test_bn113_counts_until_a_hundredth_is_left(momentum, updates):
    model = nn.BatchNorm1d(4, momentum=momentum)
    model.num_batches_tracked.fill_(updates - 1)
    assert found(model, "BN113", input_size=(4,))
    model.num_batches_tracked.fill_(updates)
    assert not found(model, "BN113", input_size=(4,))


def test_bn113_hits_a_short_training():
    model = train(small(), 10)
    (finding,) = found(model, "BN113")
    assert finding.severity == "warning"
    assert finding.evidence == {"num_batches_tracked": 10, "momentum": 0.1, "initial_share": 0.9**10}


def test_bn113_misses_recalibrated_old_and_new_statistics():
    model = train(small(), 10)
    recalibrated = copy.deepcopy(model)
    update_bn([torch.randn(8, 3, 8, 8) * 0.1 for _ in range(3)], recalibrated)
    report = bninspect.check(recalibrated, select=["BN113"])
    assert not report.findings
    assert "recalibrated" in report.silent[0].reason
    assert not found(small(), "BN113")
    assert not found(train(small(), 50), "BN113")


def test_missing_keys_are_told_once(renamed, run, tmp_path):
    (tmp_path / "nets.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), "
        "nn.ReLU(), nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2))"
    )
    model = ("nets.py:net", "--checkpoint", renamed, "--no-strict", "--input", "3,8,8")
    _, out, _ = run("check", *model)
    assert "BN116" in out
    assert "missing (" not in out
    assert "5 unexpected (norm.weight" in out
    for words in (("check", *model, "--ignore", "BN116"), ("summary", *model)):
        assert "not loaded: 4 missing (4.weight" in run(*words)[1]
