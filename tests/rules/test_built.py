"""A model that was only just built has a mode that nobody chose; a user's own instance has the mode it is in."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import bninspect
from bninspect.cli import cli

NETS = """
import torch
from torch import nn

def no_momentum():
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8, momentum=0.0), nn.ReLU())

def frozen():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    model[1].requires_grad_(False)
    return model

def half():
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()).half()

def untracked():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    model[1].track_running_stats = False
    return model
"""
CASES = {
    "no_momentum": ("BN206", "warning", "info"),
    "frozen": ("BN203", "warning", "info"),
    "half": ("BN110", "warning", "info"),
    "untracked": ("BN201", "error", "warning"),
}


@pytest.fixture
def made(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    names: dict[str, object] = {}
    exec(NETS, names)  # the same functions, called by the user
    return tmp_path, names


def on_the_command_line(model, code, *more):
    done = CliRunner().invoke(cli, ["check", model, "--select", code, "--input", "3,8,8", "--format", "json", *more])
    return [(finding["severity"], finding["message"]) for finding in json.loads(done.stdout)["findings"]]


@pytest.mark.parametrize("name", CASES)
def test_rules_on_the_mode_tell_of_a_model_that_was_only_just_built(made, name):
    folder, names = made
    code, own, built = CASES[name]
    (finding,) = bninspect.check(names[name](), select=[code], input_size=(3, 8, 8)).findings
    ((severity, message),) = on_the_command_line(f"{folder}/nets.py:{name}", code)
    assert (finding.severity, severity) == (own, built)
    if built == "info" and code != "BN110":
        assert "if it were trained so" in message
        assert "if it were trained so" not in finding.message


def test_a_module_that_was_pickled_has_the_mode_that_it_was_saved_in(made, tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=0.0))
    for mode, expected in ((True, ["warning"]), (False, [])):
        torch.save(model.train(mode), tmp_path / "m.pt")
        found = on_the_command_line(str(tmp_path / "m.pt"), "BN206", "--allow-pickle")
        assert [severity for severity, _ in found] == expected


def test_a_factory_that_put_a_part_into_eval_mode_chose_the_mode_of_the_rest(made):
    """All in eval mode shows nothing of the training; all in train mode may be how they were built."""
    folder, _ = made
    lines = (
        "def frozen_part():",
        "    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))",
        "    model.requires_grad_(False)",
        "    model[1].eval()",
        "    return model",
        "def all_trained():",
        "    return frozen_part().train()",
        "def all_eval():",
        "    return frozen_part().eval()",
    )
    (folder / "nets.py").write_text(NETS + "\n" + "\n".join(lines))
    severities = {"frozen_part": ["warning"], "all_trained": ["info"], "all_eval": []}
    for name, expected in severities.items():
        found = on_the_command_line(f"{folder}/nets.py:{name}", "BN203")
        assert [severity for severity, _ in found] == expected


def test_a_converted_net_for_inference_is_no_failure(made):
    folder, _ = made
    assert CliRunner().invoke(cli, ["check", f"{folder}/nets.py:no_momentum", "--input", "3,8,8"]).exit_code == 0
