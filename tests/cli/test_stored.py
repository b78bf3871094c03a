"""``summary FILE`` and ``stats FILE``: a file's stored layers through the whole command line, without torch."""

import collections
import json
import os
import subprocess
import sys
import unicodedata
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from hostile import build
from hostile.names import NAMES
from torch import nn

from bninspect.cli import run
from bninspect.inspection.stats.stored import stored_stats
from bninspect.inspection.summary.stored import stored_summary
from bninspect.models import ModelOptions, checkpoint
from bninspect.report import Source


@pytest.fixture
def path(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=0.5))
    net(torch.randn(8, 3, 5, 5))
    torch.save(net, tmp_path / "net.pt")
    torch.save(net.state_dict(), tmp_path / "state.pt")
    return tmp_path


def printed(capsys, *arguments):
    code = run(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def test_stats_of_a_file(path, capsys):
    code, out, _ = printed(capsys, "stats", str(path / "net.pt"), "--channels", "--format", "json")
    report = json.loads(out)
    (layer,) = report["layers"]
    state = torch.load(path / "state.pt", weights_only=True)
    assert code == 0
    assert layer["path"] == "1"
    assert layer["eps"] == 0.5
    for field in ("weight", "bias", "running_mean", "running_var"):
        assert layer["channels"][field] == state[f"1.{field}"].tolist()
    assert report["source"]["evidence"] == "tensors"
    assert report["source"]["model_kind"] == "pickled module"
    assert report["tool"]["torch"] is None
    assert report["num_images"] is None


def test_summary_of_a_file(path, capsys):
    code, out, _ = printed(capsys, "summary", str(path / "state.pt"), "--format", "json")
    report = json.loads(out)
    (layer,) = report["layers"]
    assert code == 0
    assert report["execution"] == "stored"
    assert (layer["name"], layer["num_parameters"], layer["num_buffer_elements"]) == ("BatchNorm-1", 8, 9)
    assert (layer["eps"], layer["momentum"], layer["training"], layer["num_trainable_parameters"]) == (None,) * 4
    assert report["totals"]["num_parameters"] is None
    assert report["totals"]["num_batchnorm_parameters"] == 8


@pytest.mark.parametrize("command", ["summary", "stats"])
@pytest.mark.parametrize("name", ["net.pt", "state.pt"])
def test_the_table_says_what_is_unknown(path, capsys, command, name):
    code, out, err = printed(capsys, command, str(path / name))
    assert (code, err) == (0, "")
    assert "nothing was run" in out
    assert ("holds no eps" in out) == (name == "state.pt")
    assert "BatchNorm" in out


@pytest.mark.parametrize("command", ["summary", "stats"])
def test_torch_is_never_imported(path, command):
    code = (
        "import sys; from bninspect.cli import run; code = run(sys.argv[1:]); "
        "sys.exit(code or 100 * ('torch' in sys.modules))"
    )
    words = [sys.executable, "-c", code, command, str(path / "state.pt")]
    assert subprocess.run(words, check=False, stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize(("command", "fmt"), [("summary", "ordereddict"), ("check", "github"), ("check", "junit")])
def test_formats_for_programs_show_hostile_names_as_text(tmp_path, capsys, command, fmt):
    layers = {k: v for name in NAMES.values() if len(name) < 1000 for k, v in build.layer(name).items()}
    broken = [*build.floats()[:3], np.full(build.CHANNELS, -1, "<f4").tobytes()]  # a negative variance in each
    path = tmp_path / "net.pt"
    path.write_bytes(build.checkpoint(build.finished(build.mapping(layers)), broken))
    code, out, _ = printed(capsys, command, str(path), "--format", fmt)
    assert code == (1 if command == "check" else 0)
    assert not [c for c in out if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c != "\n"]
    if fmt == "github":
        assert all(
            line.startswith(("::error ", "::warning ", "::notice ")) for line in out.splitlines() if "::" in line[:3]
        )
        assert not [line for line in out.splitlines() if line.startswith("::error file=x")]  # a name forged this one
    elif fmt == "junit":
        assert len(ET.fromstring(out).findall(".//testcase")) > 0
    else:
        assert len(eval(out, {"OrderedDict": collections.OrderedDict})) == len(layers) // 4


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("summary", "net.pt", "--input", "3,5,5"), "leave it out"),
        (("stats", "net.pt", "--batch", "x.pt"), "leave it out"),
        (("stats", "resnet18"), "Missing option"),
        (("stats", "net.pt", "--layer", "conv*"), "matches 'conv*'"),
        (("stats", "net.pt", "--weights", "DEFAULT"), "do not apply"),
        (("stats", "nowhere.pt"), "there is no such file"),
        (("stats", "https://example.invalid/net.pt"), "download the file first"),
        (("summary", "."), "it is a folder"),
        (("summary", "/dev/zero"), "it is a device"),
    ],
)
def test_what_cannot_be_done_is_said(path, capsys, monkeypatch, arguments, text):
    monkeypatch.chdir(path)
    code, out, err = printed(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert text in err
    assert "Traceback" not in err


def test_a_long_table_is_laid_out_as_a_short_one_is(tmp_path, capsys):
    for layers in (1000, 1001):
        (tmp_path / f"{layers}.pt").write_bytes(build.many_layers(layers))
    short, long = (printed(capsys, "stats", str(tmp_path / f"{n}.pt"))[1].splitlines() for n in (1000, 1001))
    assert len(long) == len(short) + 1
    assert [line.split() for line in long[4:1000] if "-" * 9 not in line] == [
        line.split() for line in short[4:1000] if "-" * 9 not in line
    ]


def test_a_file_of_other_layers_alone(tmp_path, capsys):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "net.pt")
    code, out, _ = printed(capsys, "stats", str(tmp_path / "net.pt"))
    assert code == 0
    assert "holds no BatchNorm layer" in out


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes there alone")
def test_a_file_name_that_is_no_text(tmp_path, capsys):
    name = os.fsdecode(os.fsencode(str(tmp_path)) + b"/\xff\x1b[2J.pt")
    with open(name, "wb") as file:  # noqa: PTH123
        file.write(build.checkpoint(build.state()))
    for fmt in ("json", "table"):
        code, out, _ = printed(capsys, "summary", name, "--format", fmt)
        assert code == 0
        assert "\x1b" not in out
        assert "\\udcff" in out


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("best.pt", True), ("a/b.SAFETENSORS", True), ("x.ckpt", True), ("resnet18", False), ("nets.py:make", False),
        ("pkg.mod:make", False), (".", True), ("org/name", False), ("a\0b.x", False), ("model.index.json", True),
    ],
)  # fmt: skip
def test_what_is_taken_for_a_file(text, taken):
    assert checkpoint.accepts(text) is taken


def test_the_functions_give_what_the_commands_show(path):
    found = checkpoint.load(str(path / "net.pt"), ModelOptions())
    source = Source(model=found.name, model_kind=found.kind, evidence=found.evidence)
    report = stored_stats(found.layers, source, found.notes)
    np.testing.assert_array_equal(report.layers[0].channels.weight, np.ones(4, np.float32))
    assert stored_summary(found.layers, source).layers[0].weight_size == (4,)
