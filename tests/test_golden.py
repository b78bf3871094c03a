"""Whole outputs against files in ``golden/``; ``make golden`` rewrites them, and the diff is reviewed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from loops import broken_run

LONG = re.compile(r"-?\d+\.\d{5,}(?:e[+-]?\d+)?|-?\d+\.?\d*e[+-]?\d+")
GOLDEN = Path(__file__).parent / "golden"
FORMATS = ["table", "json", "csv", "markdown"]
TEXT = ["table", "markdown"]
SUMMARY = ("summary", "nets.py:model", "--input", "3,8,8")
CHECK = ("check", "nets.py:faulty", "--batch", "batch.pt", "--exit-zero")
STATS = ("stats", "nets.py:model", "--batch", "batch.pt")
CASES = {
    **{f"summary.{form}": (*SUMMARY, "--format", form) for form in [*FORMATS, "ordereddict"]},
    **{f"summary-all-layers.{form}": (*SUMMARY, "--all-layers", "--format", form) for form in ("table", "ordereddict")},
    **{f"stats.{form}": (*STATS, "--format", form) for form in FORMATS},
    **{f"stats-channels.{form}": (*STATS, "--channels", "--format", form) for form in FORMATS},
    **{f"check.{form}": (*CHECK, "--format", form) for form in [*FORMATS, "github", "junit"]},
    **{f"recalibrate.{form}": ("recalibrate", *STATS[1:], "--format", form) for form in ("table", "markdown")},
    "check-nothing.table": ("check", "nets.py:nothing", "--batch", "batch.pt"),
    "check-followers.table": ("check", "nets.py:copied", "--batch", "many.pt", "--exit-zero"),
    "check-stored.table": ("check", "faulty.pt", "--exit-zero"),
    "rule.table": ("rule",),
    **{f"rule-{code}.table": ("rule", code) for code in ("BN2", "BN203", "BN401")},
    **{f"stats-settled.{form}": ("stats", "nets.py:settled", "--batch", "batch.pt", "--format", form) for form in TEXT},
    **{f"diff.{form}": ("diff", "faulty.pt", "moved.pt", "--format", form) for form in TEXT},
    "stats-note.table": ("stats", "--batch", "note.pt"),
    "summary-resnet18.table": ("summary", "resnet18", "--input", "3,418,418"),
    **{f"watch.{form}": ("watch", "run.jsonl", "--once", "--exit-zero", "--format", form) for form in FORMATS},
    "no-batchnorm.table": ("summary", "nets.py:nothing", "--input", "3,8,8"),
}
NETS = """
import torch
from torch import nn
from collections import OrderedDict

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 1, bias=False), bn=nn.BatchNorm2d(4)))
        self.shared = nn.BatchNorm2d(4, eps=1e-3, momentum=None)
        self.unused = nn.BatchNorm2d(2)
        self.head = nn.BatchNorm1d(4, affine=False)
        self.stem.conv.weight.data = torch.arange(12.).reshape(4, 3, 1, 1) / 8
        self.stem.bn.bias.requires_grad = False
        self.shared.eval()

    def forward(self, x):
        x = self.shared(self.shared(self.stem(x)).relu())
        return nn.functional.batch_norm(self.head(x.mean((2, 3))), None, None, training=True)

model = Net()

faulty = nn.Sequential(
    nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=0.99), nn.ReLU(),
    nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4, momentum=0.99), nn.ReLU(),
    nn.Conv2d(4, 2, 1, bias=False), nn.BatchNorm2d(2, eps=1e-3),
)
for index, layer in enumerate(faulty):
    for name, value in layer.state_dict().items():
        if value.is_floating_point():
            value.copy_((torch.arange(value.numel()).reshape(value.shape) + index) % 5 / 4 + 0.25)
faulty[4].running_var[2] = -1
faulty[4].running_mean[1] = torch.inf
faulty[7].requires_grad_(False)
faulty[1].eval()
nothing = nn.Sequential(nn.Conv2d(3, 4, 1))
copied = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU()).eval()
for value in copied.parameters():
    value.data.copy_((torch.arange(value.numel()).reshape(value.shape)) % 5 / 4 + 0.25)

settled = Net()  # one layer fits the batch, one is somewhat off, one has nothing to do with it
for norm, mean, var in ((settled.stem.bn, [0.84, 1.9, 5.0, 8.2], 0.1), (settled.head, [4.1, -9.0, 3.0, 0.2], 9.0)):
    norm.running_mean.copy_(torch.tensor(mean))
    norm.running_var.fill_(var)
    norm.num_batches_tracked.fill_(1000)
settled.stem.bn.weight.data[1] = 0
"""


def broken():
    """A layer as a file may hold it: trained, with a negative and an infinite entry."""
    layer = torch.nn.BatchNorm2d(4)
    layer.weight.data = torch.tensor([1.0, 0.5, 1e-9, 0.25])
    layer.running_mean.copy_(torch.tensor([0.5, torch.inf, 1.0, 2.0]))
    layer.running_var.copy_(torch.tensor([-1.0, 2.0, 1.0, 0.5]))
    return layer


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    path = tmp_path_factory.mktemp("record") / "run.jsonl"
    broken_run(path)
    return path


@pytest.fixture
def files(tmp_path, note_batch, record):
    (tmp_path / "nets.py").write_text(NETS)
    shutil.copy(record, tmp_path)
    torch.save(note_batch, tmp_path / "note.pt")
    state = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), broken()).state_dict()
    torch.save(state, tmp_path / "faulty.pt")
    moved = {
        "1.weight": [1.0, 0.5, 0.4, 0.25],
        "1.bias": [0, 0, 0, 0.01],
        "1.running_mean": [0.75, torch.inf, 1.0, 2.0],
        "1.running_var": [-1.0, 8.0, 1.0, 0.55],
        "7.running_mean": [0.0],
        "7.running_var": [1.0],
    }
    torch.save(state | {name: torch.tensor(values) for name, values in moved.items()}, tmp_path / "moved.pt")
    torch.save(torch.arange(4 * 3 * 4 * 4).reshape(4, 3, 4, 4) % 37 / 8.0, tmp_path / "batch.pt")
    torch.save(torch.arange(40 * 3 * 4 * 4).reshape(40, 3, 4, 4) % 37 / 8.0, tmp_path / "many.pt")
    return tmp_path


def compare(request, name, text):
    """Versions differ from machine to machine; all else is compared."""
    text = re.sub(r'(bninspect|[Pp]ython|torch|torchvision|timm)(" ?: "| )[0-9][\w.+]*', r"\1\2X", text)
    text = re.sub(r', (torchvision|timm)\sX|\n *"(torchvision|timm)" ?: ("X"|null),', "", text)
    text = re.sub(r"^bninspect X.*?float32$", "bninspect X", text, flags=re.MULTILINE | re.DOTALL)
    path = GOLDEN / name
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    expected = path.read_text(encoding="utf-8")
    if name.endswith((".json", ".csv")):  # 17 digits: the last ones depend on the processor
        assert LONG.sub("#", text) == LONG.sub("#", expected)
        found, wanted = ([float(number) for number in LONG.findall(each)] for each in (text, expected))
        assert found == pytest.approx(wanted, rel=1e-4)
    else:
        assert text == expected


@pytest.mark.parametrize("name", CASES)
def test_output_is_as_it_was(request, run, files, name):
    code, out, err = run(*CASES[name])
    assert (code, err) == (int(name.startswith("diff")), "")
    compare(request, name, out)


@pytest.mark.parametrize("columns", [80, 120, 200])
@pytest.mark.parametrize(
    "name",
    [
        "summary.table",
        "stats.table",
        "stats-settled.table",
        "stats-channels.table",
        "diff.table",
        "check.table",
        "rule-BN2.table",
        "rule-BN203.table",
    ],
)
def test_widths(request, run, files, monkeypatch, *, name, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, _ = run(*CASES[name])
    assert code == int(name.startswith("diff"))
    assert max(map(len, out.splitlines())) <= columns
    compare(request, name.replace(".table", f"-{columns}.table"), out)
