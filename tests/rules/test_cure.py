"""What is advised about statistics that do not fit, beside what becomes of really trained networks that follow it."""

from __future__ import annotations

import copy

import pytest
import torch
from looks import found
from taught import accuracy, gratings, network, recalibrated, shifted, train
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from bninspect.rules.cure import cure
from bninspect.rules.data_facts import Data, Recalibrated
from bninspect.rules.facts import Facts

CURED = "all layers behind fit again"
BOTH = "compare the accuracy"
ONE_CLASS = "If these images are all of one class"
FROZEN = "If it was trained with these statistics frozen"
REFUTED = "Look at the weights"


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def good():
    torch.manual_seed(0)
    return train(network(8, depth=4), gratings, 200)


@pytest.fixture(scope="module")
def images():
    return gratings(128, 9)


def norms(model):
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def spoiled(model, spoil):
    model = copy.deepcopy(model)
    torch.manual_seed(1)
    spoil(model)
    return model.eval()


def advice(model, x, code="BN401"):
    (fix,) = {finding.fix for finding in found(model, code, x)}
    return fix


def one_mean(model):
    norm = norms(model)[1]
    norm.running_mean += 1.5 * norm.running_var.sqrt()


def one_variance(model):
    norms(model)[0].running_var *= 9


def one_reset(model):
    norms(model)[2].reset_running_stats()


@pytest.mark.parametrize("spoil", [one_mean, one_variance, one_reset])
def test_statistics_of_one_layer_are_told_to_be_curable(spoil, good, images):
    model = spoiled(good, spoil)
    assert accuracy(recalibrated(model, images[0]), *images) == pytest.approx(accuracy(good, *images), abs=0.05)
    fix = advice(model, images[0])
    assert fix.startswith("Recalibrate the statistics: ")
    assert CURED in fix
    assert fix.endswith("Run: bninspect.recalibrate(model, batches)")


def new_convolution(model):
    model[6].reset_parameters()


def other_gamma(model):
    norms(model)[1].weight.data.sub_(1)


@pytest.mark.parametrize("spoil", [new_convolution, other_gamma])
def test_one_wrong_weight_is_not_told_to_be_curable(spoil, good, images):
    model = spoiled(good, spoil)
    assert accuracy(recalibrated(model, images[0]), *images) < accuracy(good, *images) - 0.25
    fix = advice(model, images[0])
    assert BOTH in fix
    assert "a weight that is new" in fix
    assert CURED not in fix


def test_statistics_of_all_layers_are_not_told_from_wrong_weights(good, images):
    model = spoiled(good, lambda model: [norm.reset_running_stats() for norm in norms(model)])
    assert accuracy(recalibrated(model, images[0]), *images) == pytest.approx(accuracy(good, *images), abs=0.05)
    fix = advice(model, images[0])
    assert fix.startswith("Recalibrate the statistics, and compare the accuracy: ")
    assert "their statistics were wrong as well" in fix
    assert FROZEN not in fix


def test_weights_that_are_all_wrong_are_named(good, images):
    fix = advice(shifted(good, -1), images[0])
    assert fix.startswith(REFUTED)
    assert "Run:" not in fix


def test_the_last_layer_has_none_behind_that_could_tell(good, images):
    model = spoiled(good, lambda model: norms(model)[3].running_mean.add_(9))
    fix = advice(model, images[0])
    assert "no layer behind could tell" in fix
    assert BOTH in fix


def test_without_scores_wrong_weights_are_not_told_from_wrong_statistics(good, images):
    """An embedding: the layers behind stay off in both."""
    for model in (
        shifted(good, -1),
        spoiled(good, lambda model: [norm.reset_running_stats() for norm in norms(model)]),
    ):
        embedding = nn.Sequential(model[:-1], nn.Linear(16, 1)).eval()
        assert BOTH in advice(embedding, images[0])


def frozen(model, x, y):
    """Taught on with statistics that stand still, as fine-tuning of detectors does; the images are of another kind."""
    model = copy.deepcopy(model).eval()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        chosen = torch.randint(0, len(x), (32,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
        optimizer.step()
    return model


def test_statistics_that_were_frozen_in_training_are_named(good):
    x, y = gratings(1600, 1)
    model = frozen(good, 3 * x + 1, y)
    other, labels = gratings(128, 9)
    other = 3 * other + 1
    assert accuracy(model, other, labels) >= accuracy(recalibrated(model, other), other, labels)
    assert advice(model, other).startswith(FROZEN)
    assert CURED in advice(good, other)


def test_images_of_one_class_are_no_statistics_of_training(good):
    x, y = gratings(900, 9)
    one = x[y == 2][:64]
    assert accuracy(recalibrated(good, one), x, y) < accuracy(good, x, y) - 0.1
    fixes = {finding.fix for code in ("BN401", "BN404") for finding in found(good, code, one)}
    assert fixes
    assert all(fix.startswith(ONE_CLASS) for fix in fixes)


def test_frozen_statistics_are_not_named_where_predictions_tell_as_much():
    known = {"decided_before": 0.95, "decided_after": 0.8, "sure_after": 0.9}
    assert tried(**known).text.startswith(FROZEN)
    assert FROZEN not in tried(**{**known, "decided_after": 0.95}).text
    assert FROZEN not in tried(**{**known, "distance_most": 0.02}).text


def test_a_class_whose_statistics_never_move_is_only_told(good, images):
    model = copy.deepcopy(good)
    for index, norm in enumerate(model):
        if isinstance(norm, nn.BatchNorm2d):
            model[index] = FrozenBatchNorm2d(16)
            model[index].load_state_dict(norm.state_dict())
    for one, severities in ((model, {"info"}), (good, {"error", "warning"})):
        assert {finding.severity for finding in found(one, "BN401", 9 * images[0] + 9)} == severities


def tried(**changes):
    known = {"layers": 3, "distance_before": 0.6, "distance_after": 0.5, "distance_most": 0.7, "farthest": "a",
             "decided_before": 0.0, "decided_after": 0.0, "sure_before": 0.0, "sure_after": 0.0, **changes}  # fmt: skip
    data = Data(num_images=64, batches=1, recalibrated=Recalibrated(**known))
    return cure(Facts((), data=data))


def test_a_batch_of_one_class_does_not_blame_the_weights():
    assert "look at the weights" in tried().text
    assert not tried().recalibrates
    assert BOTH in tried(sure_after=0.6).text
    assert tried(sure_before=0.9, sure_after=0.6).text.startswith(ONE_CLASS)
    assert ONE_CLASS not in tried(sure_before=0.9, decided_before=0.6, sure_after=0.6).text
    assert BOTH in tried(decided_after=0.6).text
    assert BOTH in tried(decided_before=None, decided_after=None, sure_after=None).text


def test_a_single_layer_that_stays_off_is_named_as_such():
    text = tried(distance_after=1e-4, decided_after=0.6).text
    assert "most layers behind fit, but some are still off, a by 0.7 (median distance 0.0001, 0.6 before)" in text
    assert "layers behind are still off, a by 0.7 (median distance 0.5, 0.6 before)" in tried(decided_after=0.6).text


def test_what_was_not_tried_is_not_told():
    assert cure(Facts((), data=Data(num_images=64, batches=1))) is None
