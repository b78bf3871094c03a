"""check with ``forward=``: a step just as a loader gives it shows what the same images show as tensors."""

from __future__ import annotations

from collections import UserDict

import pytest
import torch
from fingerprint import fingerprint
from healthy import smooth
from looks import IMAGES, network
from torch import nn
from torch.utils.data import DataLoader
from torchvision.models import detection

import bninspect
from bninspect.errors import ForwardError, InputError


@pytest.fixture(scope="module", autouse=True)
def _threads(one_thread):
    """Many forwards of tiny nets."""


def by_name(model, step):
    return model(step["image"])


KINDS = {
    "dict": (lambda x, y: {"image": x, "label": y, "scale": 1.0}, by_name),
    "UserDict": (lambda x, y: UserDict(image=x, label=y), by_name),
    "pair": (lambda x, y: [x, y], lambda model, step: {"logits": model(step[0])}),
    "list of images": (lambda x, y: list(x), lambda model, step: model(torch.stack(step))),
    "pairs": (
        lambda x, y: [{"image": image, "label": label} for image, label in zip(x, y, strict=True)],
        lambda model, step: model(torch.stack([one["image"] for one in step])),
    ),
    "in its own hands": (
        lambda x, y: {"image": x, "label": y},
        lambda model, step: model(step.pop("image").mul_(2).div_(2)),
    ),
}


def shown(report):
    return [(finding.code, finding.message, finding.told, finding.evidence) for finding in report.findings]


def silences(report):
    return {silent.code: silent.reason for silent in report.silent}


@pytest.fixture(scope="module")
def spoiled():
    """Weights that went on without their statistics behind the first layer; it is fed with bytes besides."""
    model = network(depth=3)
    nn.init.kaiming_normal_(model[3].weight)
    nn.init.kaiming_normal_(model[6].weight)
    return model


@pytest.fixture(scope="module")
def pieces():
    return [255 * part for part in smooth(72, *IMAGES, seed=2).split(20)]


@pytest.fixture(scope="module")
def plain(spoiled, pieces):
    return bninspect.check(spoiled, pieces, batch_size=2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_shows_what_its_tensors_show(kind, spoiled, pieces, plain):
    make, forward = KINDS[kind]
    steps = [make(part, torch.arange(len(part))) for part in pieces]
    before = fingerprint(spoiled)
    report = bninspect.check(spoiled, steps, forward=forward, batch_size=2)
    assert fingerprint(spoiled) == before
    expected, silent = shown(plain), silences(plain)
    assert {"BN401", "BN402", "BN404", "BN406"} <= {code for code, *_ in expected}
    if kind in ("pairs", "list of images"):  # of several tensors none is the input
        expected = [hit for hit in expected if hit[0] != "BN402"]
        silent["BN402"] = "the input is not one tensor of numbers: changes are tried on floats alone"
    assert shown(report) == expected
    assert silences(report) == silent
    assert (report.num_images, report.num_layers) == (72, 3)
    assert all(torch.equal(image, part[0]) for image, part in zip(map(first_of, steps), pieces, strict=True))


def first_of(step):
    found = step["image"] if isinstance(step, (dict, UserDict)) else step[0]
    return found["image"] if isinstance(found, dict) else found if found.dim() == 3 else found[0]


def test_a_loader_of_one_odd_image_is_told_and_so_is_the_size_of_a_batch():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8)).eval()
    loader = DataLoader([{"image": torch.randn(3, 2, 2), "label": number} for number in range(17)], batch_size=8)
    for rules in (["BN405"], []):  # an untrained model: no data are looked at, but batches are counted
        report = bninspect.check(model, loader, forward=by_name, select=rules)
        finding = next(finding for finding in report.findings if finding.code == "BN405" and "last" in finding.message)
        assert finding.message.startswith("the last batch (of 3) has 1 image, and so one value per channel")


class Opaque:
    """Something that only its own function can take apart, and that moves as tensors do."""

    def __init__(self, x):
        self.x = x

    def to(self, device):
        self.x = self.x.to(device)
        return self


def test_what_cannot_be_told_of_an_opaque_step_is_silent(spoiled, pieces, plain):
    report = bninspect.check(
        spoiled, list(map(Opaque, pieces)), forward=lambda model, step: model(step.x), batch_size=2
    )
    unknown = {"BN402", "BN404", "BN406"}
    assert shown(report) == [hit for hit in shown(plain) if hit[0] not in unknown]
    for code in ("BN404", "BN406"):
        assert "could not be put into other batches: a step is a Opaque, which cannot be cut" in silences(report)[code]
    assert "changes are tried on floats alone" in silences(report)["BN402"]


def test_a_function_that_refuses_other_groups_makes_rules_silent_and_no_error(spoiled, pieces):
    def picky(model, step):
        assert len(step["image"]) in (20, 12), "another size"
        return model(step["image"])

    def forgetful(model, step):
        return model(torch.cat([step["image"], step["image"][:1]]))

    def cutting(model, step):
        return model(step["image"][: len(step["image"]) // 20 * 20 or 12])

    steps = [{"image": part} for part in pieces]
    report = bninspect.check(spoiled, steps, forward=picky)
    assert "AssertionError: another size" in silences(report)["BN404"]
    report = bninspect.check(spoiled, steps, forward=cutting)
    assert "of 16 images put together anew, the first layer sees 12" in silences(report)["BN406"]
    report = bninspect.check(spoiled, steps, forward=forgetful)
    assert "21 entries" not in silences(report)["BN404"]
    assert "20 entries, and the step 21 images" in silences(report)["BN404"]


def test_whole_steps_of_training_change_nothing(spoiled, pieces):
    def step(model, batch):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        with torch.enable_grad():
            loss = nn.functional.cross_entropy(model(batch["image"]), batch["label"])
            loss.backward()
        optimizer.step()
        return loss

    steps = [{"image": part, "label": torch.zeros(len(part)).long()} for part in pieces]
    before = fingerprint(spoiled)
    report = bninspect.check(spoiled, steps, forward=step)
    assert fingerprint(spoiled) == before
    assert silences(report)["BN404"] == "the output is no table of scores"
    (stats, plain) = (
        bninspect.stats(spoiled, steps, forward=step),
        bninspect.stats(spoiled, pieces),
    )
    for one, other in zip(stats.layers, plain.layers, strict=True):
        assert (one.d_max, one.r_max) == (other.d_max, other.r_max)


def test_a_detection_model():
    torch.manual_seed(0)
    model = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).eval()
    loader = DataLoader(
        [(torch.rand(3, 40 + number, 60), {"labels": torch.tensor([1])}) for number in range(4)],
        batch_size=2,
        collate_fn=lambda samples: tuple(zip(*samples, strict=True)),
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
    before = fingerprint(model)
    report = bninspect.check(model, loader, forward=lambda model, step: model(list(step[0])))
    assert fingerprint(model) == before
    assert report.num_images == 4
    assert {"BN401"} <= {finding.code for finding in report.findings} | set(silences(report))
    assert not {finding.code for finding in report.findings} & {"BN305"}
    assert silences(report)["BN404"] == "the output is no table of scores"


def test_bad_use_is_said(spoiled, pieces):
    def train(model, step):
        return model.train()(step)

    with pytest.raises(ForwardError, match=r"^train puts .* into another mode, and it runs in eval mode here"):
        bninspect.check(spoiled, pieces, forward=train)
    with pytest.raises(InputError, match="no batch was given"):
        bninspect.check(spoiled, forward=train)


CODE = """
import torch
from torch import nn
from torch.utils.data import DataLoader

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(3)
        self.bn.weight.data += torch.rand(3)
    def forward(self, *, image, scale):
        return self.bn(image) * scale

model = Net()
torch.manual_seed(0)
loader = DataLoader([{"image": 9 + torch.rand(3, 4, 4), "scale": 2.0} for i in range(40)], batch_size=8)

def step(model, batch):
    return model(image=batch["image"], scale=batch["scale"].view(-1, 1, 1, 1))
"""


def test_the_command_line(run, tmp_path):
    (tmp_path / "net.py").write_text(CODE)
    arguments = ("check", "net.py:model", "--batch", "net.py:loader", "--forward", "net.py:step")
    code, out, _ = run(*arguments)
    assert code == 1
    assert "BN401" in out
    assert "--batch net.py:loader --forward net.py:step -o" in " ".join(out.split())
    code, out, err = run("check", "net.py:model", "--forward", "net.py:step")
    assert (code, out) == (2, "")
    assert "--forward runs the steps of a batch: add --batch SOURCE" in err
    torch.save(torch.nn.BatchNorm2d(3).state_dict(), tmp_path / "bn.pt")
    code, _, err = run("check", "bn.pt", "--forward", "net.py:step")
    assert (code, "--forward is for a model that can run" in err) == (2, True)
