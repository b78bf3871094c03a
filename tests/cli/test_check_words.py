"""What a reader of check is told: a verdict, each cause with what follows from it, a line of what was not looked at."""

from __future__ import annotations

import json

import pytest

NETS = """
import torch
from torch import nn

def network(fault=None):
    torch.manual_seed(0)
    layers = []
    for width in (3, 16, 16):
        layers += [nn.Conv2d(width, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
    with torch.no_grad():
        for norm in model:
            if isinstance(norm, nn.BatchNorm2d):
                norm.weight.uniform_(0.7, 1.3)
                norm.momentum = None
        for _ in range(2):
            model(3 + torch.randn(64, 3, 8, 8))
        for norm in model:
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = 0.1
                norm.num_batches_tracked.fill_(1000)
        if fault == "copy":
            for norm in (model[1], model[4]):
                norm.running_mean.zero_()
                norm.running_var.fill_(1)
    return model.eval()

def healthy():
    return network()

def copied():
    return network("copy")

def images():
    torch.manual_seed(1)
    return 3 + torch.randn(64, 3, 8, 8)
"""


@pytest.fixture
def nets(run, tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    return lambda *arguments: run("check", *arguments)


def test_a_healthy_network_is_a_verdict_and_a_line(nets):
    code, out, err = nets("nets.py:healthy", "--input", "3,8,8")
    assert (code, err) == (0, "")
    lines = [line for line in out.splitlines() if line]
    assert len(lines) == 4
    assert lines[2].startswith("Nothing wrong found by ")
    assert lines[2].endswith(" rules in 3 BatchNorm layers")
    assert lines[3].startswith("Not looked at: ")
    assert " rules need --batch SOURCE, 1 rule needs --batch-size; -v lists them" in lines[3]


def test_the_line_counts_what_json_and_v_list(nets):
    _, out, err = nets("nets.py:healthy", "--input", "3,8,8", "-v")
    report = json.loads(nets("nets.py:healthy", "--input", "3,8,8", "--format", "json")[1])
    needing = [one["code"] for one in report["silent"] if one["needs"] == "--batch SOURCE"]
    assert f"Not looked at: {len(needing)} rules need --batch SOURCE" in out
    listed = [line for line in err.splitlines() if line.startswith("not applied: ")]
    assert sum(line.count("BN") for line in listed) == len(report["silent"])
    looked = len(report["rules"]) - len({one["code"] for one in report["silent"] if not one["layers"]})
    assert f"Nothing wrong found by {looked} of {len(report['rules'])} rules" in out


def test_a_cause_is_shown_once_with_what_follows_from_it(nets):
    code, out, _ = nets("nets.py:copied", "--batch", "nets.py:images")
    report = json.loads(nets("nets.py:copied", "--batch", "nets.py:images", "--format", "json", "--exit-zero")[1])
    found = {finding["code"]: finding for finding in report["findings"] if finding["severity"] != "info"}
    assert set(found) >= {"BN104", "BN401"}
    assert {tuple(finding["explained_by"]) for code, finding in found.items() if code != "BN104"} == {("BN104",)}
    assert code == 1
    assert f"1 cause, {len(report['findings'])} findings: " in out
    assert "\nerror   BN401" not in out
    (line,) = [line for line in out.splitlines() if line.startswith("  then ")]
    layers = sum(len(finding["layers"]) for finding in report["findings"] if finding["code"] == "BN401")
    assert f"BN401 (error) in {layers} layers" in line
    assert line.endswith("from it")


def test_do_ends_in_a_command_and_numbers_are_a_sentence(nets):
    _, out, _ = nets("nets.py:copied", "--batch", "nets.py:images", "--select", "BN401")
    (do,) = [line for line in out.splitlines() if line.startswith("  do ")]
    assert "Run: " in do
    where = next(line for line in out.splitlines() if line.startswith("  where "))
    assert "16 of 16 channels are off by up to " in where
    assert " running standard deviations" in where
    assert where.index("d_max") > where.index("running standard deviations")


def test_annotations_and_cases_say_what_a_finding_follows_from(nets):
    words = ("nets.py:copied", "--batch", "nets.py:images", "--exit-zero", "--format")
    _, github, _ = nets(*words, "github")
    commands = [line for line in github.splitlines() if "title=BN401" in line]
    assert commands
    assert all("It follows from BN104." in command for command in commands)
    assert "It follows from BN104." in nets(*words, "junit")[1]
