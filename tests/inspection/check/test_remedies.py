"""What to type, in the user's own words; and that it works when it is typed."""

from __future__ import annotations

import shlex

import pytest
import torch
from torch import nn

import bninspect
from bninspect.inspection.check.remedies import command
from bninspect.report import Source

PROGRAM = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    nn.init.uniform_(net[1].weight, 0.5, 1.5)
    return net.eval()

def images():
    torch.manual_seed(1)
    return [5 + 3 * torch.randn(32, 3, 8, 8) for _ in range(2)]
"""


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (Source(model="Net"), "bninspect.recalibrate(model, batches)"),
        (
            Source(model="nets.py:net", model_kind="Python", batch="my images/"),
            "bninspect recalibrate nets.py:net --batch 'my images/' -o recalibrated.pt",
        ),
        (
            Source(model="nets.py:net", model_kind="Python", weights="runs/best.pt", batch="random", synthetic=True),
            "bninspect recalibrate nets.py:net --checkpoint runs/best.pt --batch SOURCE -o best-recalibrated.pt",
        ),
        (
            Source(model="resnet18", model_kind="torchvision", weights="ResNet18_Weights.IMAGENET1K_V1", batch="x.pt"),
            "bninspect recalibrate resnet18 --weights ResNet18_Weights.IMAGENET1K_V1 --batch x.pt -o recalibrated.pt",
        ),
        (
            Source(model="best.pt", model_kind="zip checkpoint", evidence="tensors"),
            "bninspect recalibrate MODEL --checkpoint best.pt --batch SOURCE -o best-recalibrated.pt",
        ),
    ],
)
def test_the_command_has_the_users_own_words(source, expected):
    assert command("recalibrate", source) == expected


def test_the_command_that_is_shown_cures(run, tmp_path):
    (tmp_path / "nets.py").write_text(PROGRAM)
    code, out, _ = run("check", "nets.py:model", "--batch", "nets.py:images", "--select", "BN104,BN401")
    assert code == 1
    typed = next(line for line in out.splitlines() if "Run: " in line).partition("Run: ")[2]
    assert typed == "bninspect recalibrate nets.py:model --batch nets.py:images -o recalibrated.pt"
    assert run(*shlex.split(typed)[1:])[0] == 0
    again = run("check", "nets.py:model", "--checkpoint", "recalibrated.pt", "--batch", "nets.py:images")
    assert again[0] == 0, again[1]


def test_the_command_has_the_options_that_model_and_batch_need(run, tmp_path):
    program = PROGRAM.replace("def model():", "def model(width):").replace(
        "Conv2d(3, 8, 3)", "Conv2d(3, int(width), 3)"
    )
    (tmp_path / "nets.py").write_text(program)
    torch.manual_seed(1)
    torch.save({"x": 5 + 3 * torch.randn(64, 3, 8, 8), "y": torch.zeros(64)}, tmp_path / "batch.pt")
    words = ("nets.py:model", "--model-arg", "width=8", "--batch", "batch.pt", "--batch-key", "x")
    code, out, _ = run("check", *words, "--select", "BN104")
    assert code == 1
    typed = next(line for line in out.splitlines() if "Run: " in line).partition("Run: ")[2]
    assert typed.endswith("--batch batch.pt --model-arg width=8 --batch-key x -o recalibrated.pt")
    assert run(*shlex.split(typed)[1:])[0] == 0
    assert run("check", *words, "--select", "BN104", "--checkpoint", "recalibrated.pt")[0] == 0


def test_a_model_in_python_gets_a_call_that_works():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    nn.init.uniform_(model[1].weight)
    (finding,) = bninspect.check(model, select=["BN104"]).findings
    assert finding.fix.endswith("Run: bninspect.recalibrate(model, batches)")
    bninspect.recalibrate(model, [torch.randn(8, 3, 8, 8)])
    assert not bninspect.check(model, select=["BN104"]).findings
