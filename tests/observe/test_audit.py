"""Of which models the calls of torch are looked at for a ``batch_norm`` that no layer owns."""

import ast
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import get_model
from torchvision.models.resnet import BasicBlock

import bninspect
from bninspect.observe.audit import Audit
from bninspect.observe.norms import BATCH_NORMS
from bninspect.observe.shadow import shadow

OWNERS = {"torch/nn/modules/batchnorm.py", "torch/nn/functional.py"}


def needed(model):
    return Audit(shadow(model), lambda *_: None).needed


def normalises(tree):
    """Whether code calls a function that the audit listens for."""
    names = {"batch_norm", *(str(function).removesuffix(".default").rpartition(".")[2] for function in BATCH_NORMS)}
    called = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return any(getattr(function, "attr", getattr(function, "id", None)) in names for function in called)


def test_the_packages_that_are_not_looked_at_make_no_such_call_outside_of_their_layers():
    site = Path(torch.__file__).parents[1]
    files = [file for package in (torch.nn, torchvision) for file in Path(package.__file__).parent.rglob("*.py")]
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in files}
    calling = {str(file.relative_to(site)) for file, tree in trees.items() if normalises(tree)}
    assert calling == OWNERS


def test_a_model_of_torchvision_runs_without():
    assert not needed(get_model("resnet18", weights=None))


class Direct(nn.Module):
    """It normalises by the function."""

    def forward(self, x):
        return nn.functional.batch_norm(x, torch.zeros(3), torch.ones(3))


def hooked(net):
    net.layer1[0].conv1.register_forward_hook(lambda module, args, out: None)


def replaced(net):
    net.layer1[0].forward = net.layer1[0].forward


def replaced_deep(net):
    net.avgpool = Direct()


@pytest.mark.parametrize("change", [hooked, replaced, replaced_deep])
def test_code_of_the_users_is_looked_at(change):
    net = get_model("resnet18", weights=None)
    change(net)
    assert needed(net)


def test_a_class_whose_forward_was_exchanged_is_looked_at(monkeypatch):
    def forward(self, x):
        x = self.conv1(x)
        return nn.functional.batch_norm(x, self.bn1.running_mean, self.bn1.running_var)

    monkeypatch.setattr(BasicBlock, "forward", forward)
    net = get_model("resnet18", weights=None)
    assert needed(net)
    report = bninspect.stats(net.eval(), torch.randn(2, 3, 32, 32))
    assert {"layer1.0.bn1", "layer4.1.bn1"} <= {layer.path for layer in report.layers}
