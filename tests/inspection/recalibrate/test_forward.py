"""recalibrate with ``forward=``: the statistics of the tensors in the steps, and labels from wherever they are."""

from __future__ import annotations

import copy
from collections import UserDict

import pytest
import torch
from fingerprint import fingerprint
from torch import nn
from torch.utils.data import DataLoader

import bninspect
from bninspect.errors import ForwardError, InputError


@pytest.fixture(scope="module", autouse=True)
def _threads(one_thread):
    """Many forwards of tiny nets."""


class Net(nn.Module):
    """Two layers, the second of which runs twice, and one input that is given by name."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.mix, self.twice, self.head = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.Linear(6, 3, bias=False)

    def forward(self, x=None, *, image=None):
        x = self.bn(self.conv(image if x is None else x)).relu()
        x = self.twice(self.mix(self.twice(x)))
        return self.head(x.mean((2, 3)))


X, Y = 3 + 2 * torch.randn(23, 3, 7, 7, generator=torch.Generator().manual_seed(1)), torch.arange(23) % 3
PIECES = list(zip(X.split(8), Y.split(8), strict=True))


def by_name(model, step):
    return model(image=step["image"])


def trained(model, step):
    with torch.enable_grad():
        scores = model(image=step["image"])
        nn.functional.cross_entropy(scores, step["label"]).backward()
    return scores


@pytest.fixture
def model():
    return Net().eval()


@pytest.mark.parametrize("how", ["fixed-point", "sequential", "train"])
@pytest.mark.parametrize("forward", [by_name, trained], ids=["by name", "a step of training"])
def test_steps_give_the_statistics_of_their_tensors(model, how, forward):
    plain = copy.deepcopy(model)
    expected = bninspect.recalibrate(plain, [[x, y] for x, y in PIECES], how=how)
    steps = [{"image": x, "label": y} for x, y in PIECES]
    report = bninspect.recalibrate(model, steps, how=how, forward=forward)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert report.predictions == expected.predictions
    assert report.predictions.num_labelled == 23
    assert [layer.d_max for layer in report.layers] == [layer.d_max for layer in expected.layers]


class Opaque:
    """Something that only its own function can take apart, and that moves as tensors do."""

    def __init__(self, x):
        self.x = x

    def to(self, device):
        self.x = self.x.to(device)
        return self


@pytest.mark.parametrize(
    ("make", "forward"),
    [
        (lambda x, y: UserDict(image=x, labels=y), by_name),
        (lambda x, y: [x, y], lambda model, step: {"loss": 0, "logits": model(step[0])}),
        (lambda x, y: {"image": x, "id": y}, lambda model, step: (model(image=step["image"]), step.pop("id"))),
    ],
    ids=["by name", "the second", "returned"],
)
def test_labels_come_from_wherever_they_are(model, make, forward):
    top = torch.cat([model(x).argmax(1) for x, _ in PIECES])
    report = bninspect.recalibrate(model, [make(x, y) for x, y in PIECES], forward=forward)
    assert report.predictions.num_labelled == 23
    assert report.predictions.accuracy_before == int((top == Y).sum()) / 23
    assert report.predictions.accuracy == int((model(X).argmax(1) == Y).sum()) / 23


def test_what_a_model_returns_beside_its_scores_is_no_label():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Tanh()).eval()
    model[0].running_mean[0] -= 5

    def forward(model, step):
        scores = model(step)
        return scores, scores.argmax(1)

    report = bninspect.recalibrate(model, list(X.mean((2, 3)).split(8)), forward=forward)
    assert report.predictions.changed > 0
    assert (report.predictions.num_labelled, report.predictions.accuracy) == (0, None)


def test_steps_that_cannot_be_known_again_are_not_compared(model):
    report = bninspect.recalibrate(model, list(map(Opaque, X.split(8))), forward=lambda model, step: model(step.x))
    assert report.predictions.changed is None
    shuffled = DataLoader(
        [{"image": x, "label": int(y)} for x, y in zip(X, Y, strict=True)], batch_size=8, shuffle=True
    )
    assert bninspect.recalibrate(model, shuffled, forward=by_name).predictions.num_labelled == 23


def test_a_single_step_and_bad_use(model):
    before = fingerprint(model)
    with pytest.raises(ForwardError, match="into another mode, and it runs in eval mode here"):
        bninspect.recalibrate(model, [X], forward=lambda model, step: model.train()(step))
    with pytest.raises(InputError, match="can be gone through once"):
        bninspect.recalibrate(model, iter([X]), forward=by_name)
    assert fingerprint(model) == before
    report = bninspect.recalibrate(model, {"image": X, "label": Y}, forward=by_name, how="sequential")
    assert (report.num_images, report.num_pieces, report.passes) == (23, 1, 1)


CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn, self.head = nn.BatchNorm1d(4), nn.Linear(4, 2)
    def forward(self, *, values):
        return self.head(self.bn(values))

model = Net()
torch.manual_seed(0)
loader = [{"values": 5 + torch.randn(16, 4), "target": torch.arange(16) % 2} for _ in range(3)]

def step(model, batch):
    return model(values=batch["values"])
"""


def test_the_command_line(run, tmp_path):
    (tmp_path / "net.py").write_text(CODE)
    arguments = ("--batch", "net.py:loader", "--forward", "net.py:step")
    code, out, _ = run("recalibrate", "net.py:model", *arguments, "-o", "new.pt")
    assert code == 0
    assert "Accuracy on 48 labelled images" in out
    mean = torch.load(tmp_path / "new.pt")["bn.running_mean"]
    torch.manual_seed(0)
    expected = torch.stack([5 + torch.randn(16, 4) for _ in range(3)]).double().mean((0, 1))
    torch.testing.assert_close(mean.double(), expected, rtol=1e-6, atol=0)
    code, out, _ = run("recalibrate", "net.py:model", *arguments, "--batch-size", "4")
    assert (code, "48 images in 12 pieces" in out) == (0, True)
    code, out, _ = run("noise", "net.py:model", *arguments, "--batch-size", "8")
    assert (code, "drawn from 48 images" in out) == (0, True)
