"""Averaged weights: told by the count beside them, in a live model, in a file and through --checkpoint."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from healthy import calibrate, smooth, train_a_little
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

import bninspect

IMAGES = (3, 16, 16)
NET = """
from torch import nn

def net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )
"""


@pytest.fixture(scope="module")
def average():
    """The average of a network and of one whose filters are others, with the statistics of the second."""
    names = {}
    exec(NET, names)
    model = calibrate(train_a_little(names["net"]()), smooth(64, *IMAGES, seed=1))
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    other = copy.deepcopy(model)
    for layer in (other[0], other[3]):
        nn.init.kaiming_normal_(layer.weight)
    averaged.update_parameters(calibrate(other, smooth(64, *IMAGES, seed=1)))
    return averaged.eval()


@pytest.fixture
def nets(run, tmp_path):
    (tmp_path / "nets.py").write_text(NET)
    torch.save(smooth(64, *IMAGES, seed=2), tmp_path / "batch.pt")

    def call(*words):
        out = run("check", *words, "--select", "BN403", "--format", "json", "--exit-zero")[1]
        return [(finding["severity"], finding["path"]) for finding in json.loads(out)["findings"]]

    return call


def test_bn403_hits_averages_in_files_of_every_kind(nets, average, tmp_path):
    state = average.state_dict()
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"epoch": 3, "swa": state}, tmp_path / "within.pt")
    torch.save(average, tmp_path / "whole.pt")
    save_file(state, tmp_path / "tensors.safetensors")
    for name in ("plain.pt", "within.pt", "whole.pt", "tensors.safetensors"):
        assert nets(name) == [("info", None)], name


def test_bn403_misses_files_of_one_network(nets, average, tmp_path):
    torch.save(average.module.state_dict(), tmp_path / "one.pt")
    save_file(average.module.state_dict(), tmp_path / "one.safetensors")
    assert nets("one.pt") == nets("one.safetensors") == []
    assert nets("nets.py:net", "--checkpoint", "one.pt") == []


def test_bn403_hits_an_average_that_fills_a_model(nets, average, tmp_path):
    torch.save(average.state_dict(), tmp_path / "swa.pt")
    filled = ("nets.py:net", "--checkpoint", "swa.pt")
    assert nets(*filled) == [("info", None)]
    assert nets(*filled, "--batch", "batch.pt") == [("warning", None)]
    assert not bninspect.check(average.module, smooth(64, *IMAGES, seed=2), select=["BN403"]).findings


def test_bn403_misses_an_average_whose_statistics_were_taken_anew(nets, average, tmp_path):
    fresh = copy.deepcopy(average)
    update_bn([smooth(64, *IMAGES, seed=seed) for seed in range(3, 6)], fresh)
    torch.save(fresh.state_dict(), tmp_path / "fresh.pt")
    assert nets("nets.py:net", "--checkpoint", "fresh.pt", "--batch", "batch.pt") == []


def test_a_copy_that_averages_all_but_the_count_is_not_taken_for_converged(average):
    """As the usual ModelEMA does, which passes over integers."""
    copied = copy.deepcopy(average.module)
    for bn in (copied[1], copied[4]):
        bn.num_batches_tracked.zero_()
        bn.running_var.mul_(0.5).add_(0.5)
    (silent,) = bninspect.check(copied, select=["BN113"], input_size=IMAGES).silent
    assert silent.layers == ("1", "4")
    assert "num_batches_tracked is 0" in silent.reason
