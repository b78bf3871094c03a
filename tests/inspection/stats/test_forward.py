"""``forward=`` and ``--forward``: a step just as the loader gives it, run by the user's own function."""

from __future__ import annotations

import dataclasses
from collections import UserDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fingerprint import fingerprint
from torch import nn
from torch.utils.data import DataLoader
from torchvision.models import detection

import bninspect
from bninspect.errors import ForwardError, InputError


class Two(nn.Module):
    """Two inputs, given by keyword alone."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, *, image, scale):
        return self.head(self.bn(self.conv(image) * scale).mean((2, 3)))


@dataclasses.dataclass(frozen=True)
class Graph:
    image: torch.Tensor
    scale: float


STEPS = {
    "dict": (lambda x: {"image": x, "scale": 2.0}, lambda model, step: model(**step)),
    "UserDict": (lambda x: UserDict(image=x, scale=2.0), lambda model, step: model(**step)),
    "tuple": (lambda x: (x, 2.0), lambda model, step: model(image=step[0], scale=step[1])),
    "dataclass": (lambda x: Graph(x, 2.0), lambda model, step: model(image=step.image, scale=step.scale)),
    "namespace": (
        lambda x: SimpleNamespace(image=x, scale=2.0),
        lambda model, step: model(image=step.image, scale=step.scale),
    ),
}


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_steps_of_any_kind(kind, mode):
    make, forward = STEPS[kind]
    model, x = Two(), torch.randn(10, 3, 8, 8)
    before = fingerprint(model)
    report = bninspect.stats(model, [make(x[:6]), make(x[6:])], forward=forward, mode=mode)
    assert fingerprint(model) == before
    (layer,) = report.layers
    expected = 2 * model.conv(x).detach().double()
    assert (report.num_images, report.num_pieces, layer.count) == (10, 2, 360)
    np.testing.assert_allclose(layer.channels.mean, expected.mean((0, 2, 3)), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(layer.channels.var, expected.var((0, 2, 3), correction=0), rtol=1e-6)


def test_a_detection_model_takes_lists_of_images_of_any_size():
    torch.manual_seed(0)
    model = detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None).eval()
    for module in model.modules():
        if hasattr(module, "running_var"):
            module.weight.data.uniform_(0.5, 1.5)
    images = [torch.rand(3, 60, 80), torch.rand(3, 90, 64)]
    seen = {}
    handles = [
        module.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0].double()}))
        for name, module in model.named_modules()
        if hasattr(module, "running_var")
    ]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    report = bninspect.stats(model, [images], forward=lambda model, step: model(step))
    assert report.num_images == 2
    assert [layer.path for layer in report.layers] == list(seen)
    for layer in report.layers:
        x = seen[layer.path]
        np.testing.assert_allclose(layer.channels.var, x.var((0, 2, 3), correction=0), rtol=1e-5, atol=1e-12)


def test_a_whole_training_step_leaves_the_model_and_its_gradients():
    model = Two()

    def step(model, batch):
        with torch.enable_grad():
            loss = model(**batch).square().mean()
            loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        return loss

    batch = {"image": torch.randn(4, 3, 8, 8), "scale": 1.0}
    before = fingerprint(model)
    report = bninspect.stats(model, batch, forward=step, mode="train")
    assert fingerprint(model) == before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert report.num_images == 4


@pytest.mark.parametrize("options", [{"foreach": False}, {"foreach": True}, {"fused": True}], ids=str)
def test_an_optimiser_in_the_step_writes_into_nothing(resnet18, options):
    """torchvision's own code writes into no parameter, and so is not looked at where it runs alone."""
    resnet18.fc.bias.grad = torch.ones(1000)

    def step(model, x):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, **options)
        torch.optim.SGD(resnet18.parameters(), lr=0.1).zero_grad()
        with torch.enable_grad():
            model(x).square().mean().backward()
        optimizer.step()

    batch = torch.randn(4, 3, 32, 32)
    before = fingerprint(resnet18)
    report = bninspect.stats(resnet18, [batch, batch], forward=step)
    assert fingerprint(resnet18) == before
    assert resnet18.fc.bias.grad.eq(1).all()
    resnet18.fc.bias.grad = None
    once = bninspect.stats(resnet18, batch)
    assert [layer.d_max for layer in report.layers] == [layer.d_max for layer in once.layers]


def test_a_step_may_be_taken_apart_and_written_into():
    def step(model, batch):
        return model(image=batch.pop("image").mul_(2), scale=batch.pop("scale"))

    steps = [{"image": torch.ones(4, 3, 8, 8), "scale": 1.0}]
    first = bninspect.stats(Two(), steps, forward=step).num_images
    assert (first, sorted(steps[0]), steps[0]["image"].unique().tolist()) == (4, ["image", "scale"], [1.0])


@pytest.mark.parametrize("kind", ["dict", "UserDict", "dataclass", "namespace"])
def test_named_tensors_are_split(kind):
    make, forward = STEPS[kind]
    model, x = Two(), torch.randn(10, 3, 8, 8)
    report = bninspect.stats(model, make(x), forward=forward, batch_size=4)
    assert (report.num_images, report.num_pieces) == (10, 3)
    expected = bninspect.stats(model, [make(part) for part in x.split(4)], forward=forward)
    assert report.layers[0].channels.mean.tolist() == expected.layers[0].channels.mean.tolist()


def test_what_cannot_run_is_said():
    x = torch.randn(4, 3, 8, 8)

    def backward(model, step):
        model(image=step, scale=1.0).sum().backward()

    with pytest.raises(ForwardError, match=r"by backward failed in that function itself.*torch.enable_grad\(\)"):
        bninspect.stats(Two(), [x], forward=backward)
    with pytest.raises(ForwardError, match=r"by \<lambda\> failed in layer conv, Conv2d"):
        bninspect.stats(Two(), [x[:, :2]], forward=lambda model, step: model(image=step, scale=1.0))
    nothing = bninspect.stats(Two(), [x], forward=lambda model, step: None)
    assert (nothing.num_images, nothing.layers) == (0, ())
    assert "ran no BatchNorm layer of the model that it got" in nothing.notes[0]
    with pytest.raises(InputError, match="forward runs a model, and none was given"):
        bninspect.stats(None, x, forward=backward)
    with pytest.raises(InputError, match="batch_size splits tensors"):
        bninspect.stats(Two(), [list(x)], forward=backward, batch_size=2)


CODE = """
import torch
from torch import nn
from torch.utils.data import DataLoader

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(3)
    def forward(self, *, image, scale):
        return self.bn(image) * scale

model = Two()
loader = DataLoader([{"image": torch.full((3, 2, 2), float(i)), "scale": 2.0} for i in range(5)], batch_size=2)
number = 3

def step(model, batch):
    return model(image=batch["image"], scale=batch["scale"].view(-1, 1, 1, 1))
"""


def test_the_command_line(run, tmp_path):
    (tmp_path / "net.py").write_text(CODE)
    code, out, err = run("stats", "net.py:model", "--batch", "net.py:loader", "--forward", "net.py:step")
    assert (code, err) == (0, "")
    assert "5 images (3 pieces)" in out
    assert " 2 " in next(line for line in out.splitlines() if line.startswith("bn "))  # the mean of 0 to 4
    for wrong, words in (
        ("net.py:number", "is a int: a function(model, step) was expected"),
        ("net", "is not of the form"),
    ):
        code, out, err = run("stats", "net.py:model", "--batch", "net.py:loader", "--forward", wrong)
        assert (code, out) == (2, "")
        assert words in err
    code, _, err = run(
        "stats", "net.py:model", "--batch", "net.py:loader", "--forward", "net.py:step", "--parts", "run"
    )
    assert code == 2
    assert "--parts cuts a data set" in err
    torch.save({"image": torch.randn(4, 3, 2, 2), "scale": torch.ones(4)}, tmp_path / "step.pt")
    code, out, _ = run("stats", "net.py:model", "--batch", "step.pt", "--forward", "net.py:step")
    assert (code, "4 images" in out) == (0, True)


def test_a_loader_can_be_given_in_the_api():
    loader = DataLoader([{"image": torch.randn(3, 8, 8), "scale": 1.0} for _ in range(5)], batch_size=2)
    report = bninspect.stats(
        Two(),
        loader,
        forward=lambda model, step: model(image=step["image"], scale=step["scale"].view(-1, 1, 1, 1).float()),
    )
    assert (report.num_images, report.num_pieces) == (5, 3)
