"""``--allow-pickle``: a file's code runs where it is asked for and nowhere else, and what it does wrong is told."""

from __future__ import annotations

import json
import os
import sys
import warnings

import numpy as np
import pytest
import torch
from hostile import build
from torch import nn

import bninspect

NETS = """
import pathlib, torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4))

class Extra:
    def __init__(self, says):
        self.says = says

    def __setstate__(self, state):
        with pathlib.Path("runs.txt").open("a") as file:
            file.write("run ")
        exec(state["says"])

class Looks(Net):
    def forward(self, x):
        return super().forward(x) * float(x.sum() > 0)
"""


@pytest.fixture
def nets(run, tmp_path, monkeypatch):
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(str(tmp_path))
    import nets

    torch.save(torch.randn(4, 3, 8, 8), tmp_path / "b.pt")
    return nets


def runs(folder):
    path = folder / "runs.txt"
    return path.read_text().count("run") if path.exists() else 0


def one_line(err):
    return len(err.splitlines()) == 1 and "Traceback" not in err and "\x1b" not in err


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickled_module_is_as_good_as_any(run, nets, tmp_path, legacy):
    net = nets.Net()
    with torch.no_grad():
        net[1].running_mean += torch.arange(4)
    torch.save(net, tmp_path / "best.pt", _use_new_zipfile_serialization=not legacy)
    words = ("stats", "best.pt", "--batch", "b.pt", "--allow-pickle", "--channels", "--format", "json")
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    report, twin = json.loads(out), bninspect.stats(net, torch.load(tmp_path / "b.pt"))
    assert report["source"]["evidence"] == "module"
    assert "the code that best.pt names was run (--allow-pickle)" in report["notes"]
    for layer, own in zip(report["layers"], twin.layers, strict=True):
        for name in ("mean", "var", "running_mean", "d"):
            np.testing.assert_array_equal(layer["channels"][name], getattr(own.channels, name))
    assert "BatchNorm2d-2" in run("summary", "best.pt", "--input", "3,8,8", "--allow-pickle")[1]
    assert run("check", "best.pt", "--input", "3,8,8", "--allow-pickle", "--fail-on", "error")[0] == 0
    assert run("diff", "best.pt", "best.pt", "--allow-pickle")[0] == 0


def with_code(nets, path, says="", net="Net"):
    torch.save({"epoch": 3, "ema": getattr(nets, net)(), "model": None, "extra": nets.Extra(says)}, path)


def test_the_code_runs_once(run, nets, tmp_path):
    with_code(nets, tmp_path / "best.pt", net="Looks")
    code, out, _ = run("summary", "best.pt", "--input", "3,8,8", "--allow-pickle")
    assert code == 0
    assert "a real forward was run" in out  # after one without values
    assert runs(tmp_path) == 1


def test_the_module_of_a_training_checkpoint(run, nets, tmp_path):
    with_code(nets, tmp_path / "best.pt")
    code, out, _ = run("stats", "best.pt", "--batch", "b.pt", "--allow-pickle")
    assert code == 0
    assert "Note: the module is that under 'ema'" in out


def test_what_the_code_prints_is_no_part_of_the_result(run, nets, tmp_path):
    with_code(nets, tmp_path / "best.pt", "print('hello')")
    code, out, err = run("stats", "best.pt", "--batch", "b.pt", "--allow-pickle", "--format", "json")
    assert (code, err) == (0, "hello\n")
    json.loads(out)


@pytest.fixture
def evil(run, nets, tmp_path):
    """A file that touches ``canary`` when it is unpickled, beside a state dict; and that canary."""
    state = build.state("1", extra={"x": build.call("os.system", build.text(f"touch {tmp_path / 'canary'}"))})
    (tmp_path / "evil.pt").write_bytes(build.checkpoint(state))
    return tmp_path / "canary"


def test_nothing_runs_unasked(run, nets, evil, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # what some advise, and what opens every other loader
    for words in (
        ("summary", "evil.pt"),
        ("summary", "evil.pt", "--input", "3,8,8"),
        ("stats", "evil.pt"),
        ("stats", "evil.pt", "--batch", "b.pt"),
        ("stats", "--batch", "evil.pt"),
        ("check", "evil.pt"),
        ("check", "evil.pt", "--batch", "evil.pt"),
        ("diff", "evil.pt", "evil.pt"),
        ("stats", "nets.py:Net", "--checkpoint", "evil.pt", "--no-strict", "--batch", "b.pt"),
        ("stats", "nets.py:Net", "--checkpoint", "evil.pt", "--no-strict", "--batch", "b.pt", "--allow-pickle"),
        ("diff", "nets.py:Net", "nets.py:Net", "--checkpoint", "evil.pt", "--no-strict", "--allow-pickle"),
    ):
        code, _, err = run(*words)
        assert code in (0, 1, 2), words
        assert "Traceback" not in err
        assert not evil.exists(), words


def test_it_runs_where_it_was_asked_for(run, evil):
    code, _, err = run("stats", "evil.pt", "--batch", "b.pt", "--allow-pickle")
    assert evil.exists()
    assert code == 2
    assert "evil.pt holds no whole module" in err


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ("raise ValueError('no \\x1b[2Jdata\\nhere')", r"'best.pt' cannot be loaded: ValueError: no \x1b[2Jdata"),
        ("raise SystemExit(0)", "cannot be loaded: SystemExit: 0"),
        ("import not_installed_at_all", "No module named 'not_installed_at_all' (the classes that it names must be"),
        ("def f(): f()\nf()", "cannot be loaded: "),
    ],
)
def test_what_the_code_raises_is_one_line(run, nets, tmp_path, says, message):
    with_code(nets, tmp_path / "best.pt", says)
    code, out, err = run("stats", "best.pt", "--batch", "b.pt", "--allow-pickle")
    assert (code, out) == (2, "")
    assert message in err
    assert one_line(err)


def script(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Sequential(nn.BatchNorm2d(3))), path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda nets, path: torch.save(nets.Net().state_dict(), path), "holds no whole module, but OrderedDict"),
        (lambda nets, path: torch.save(torch.ones(2), path), "holds no whole module, but Tensor"),
        (lambda nets, path: torch.save({"a": nets.Net(), "b": nets.Net()}, path), "2 modules (under 'a', 'b')"),
        (lambda nets, path: script(path), "is a TorchScript archive, whose module takes no hooks"),
        (lambda nets, path: path.write_bytes(b"no pickle at all"), "cannot be loaded: UnpicklingError"),
        (lambda nets, path: path.write_bytes(b""), "cannot be loaded: EOFError"),
        (lambda nets, path: os.mkfifo(path), "it is a pipe, and only regular files are read"),
        (lambda nets, path: path.mkdir(), "it is a folder"),
        (lambda nets, path: None, "there is no such file"),
    ],
    ids=["state-dict", "tensor", "two", "torchscript", "rubbish", "empty", "pipe", "folder", "none"],
)
def test_what_is_no_pickled_module(run, nets, tmp_path, write, message):
    write(nets, tmp_path / "best.pt")
    code, out, err = run("stats", "best.pt", "--batch", "b.pt", "--allow-pickle")
    assert (code, out) == (2, "")
    assert message in err
    assert one_line(err)


def test_a_class_that_is_not_there(run, nets, tmp_path, monkeypatch):
    torch.save(nets.Net(), tmp_path / "best.pt")
    monkeypatch.setattr(sys.modules["__main__"], "Own", type("Own", (nn.Sequential,), {}), raising=False)
    sys.modules["__main__"].Own.__module__ = "__main__"
    torch.save(sys.modules["__main__"].Own(nn.BatchNorm2d(3)), tmp_path / "script.pt")
    monkeypatch.delattr(sys.modules["__main__"], "Own")
    (tmp_path / "nets.py").rename(tmp_path / "others.py")
    del sys.modules["nets"]
    code, _, err = run("stats", "best.pt", "--batch", "b.pt", "--allow-pickle")
    assert code == 2
    assert "No module named 'nets' (the classes that it names must be installed, or be in the current folder)" in err
    code, _, err = run("stats", "script.pt", "--batch", "b.pt", "--allow-pickle")
    assert code == 2
    assert "its class was in the script that saved it: give it as MODEL" in err
    assert run("stats", "best.pt")[0] == 0  # its stored values need no class


@pytest.mark.parametrize("command", ["summary", "stats", "check"])
@pytest.mark.parametrize("pickled", [True, False])
def test_a_refusal_says_what_to_try(run, nets, tmp_path, command, pickled):
    torch.save(nets.Net() if pickled else nets.Net().state_dict(), tmp_path / "best.pt")
    option = ("--input", "3,8,8") if command == "summary" else ("--batch", "b.pt")
    code, out, err = run(command, "best.pt", *option)
    assert (code, out) == (2, "")
    assert f"{option[0]} is for a model that can run" in err
    assert "leave it out" in err
    assert "MODEL --checkpoint best.pt" in err
    assert ("--allow-pickle runs its code, which can do anything that you can" in err) is pickled


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("stats", "resnet18", "--batch", "b.pt"), "--allow-pickle runs the code of a file, and resnet18 is none"),
        (("stats", "best.pt"), "only a file's stored values need none, and are shown without --allow-pickle"),
        (("diff", "resnet18", "resnet18"), "and neither side is one"),
        (("stats", "best.pt", "--batch", "b.pt", "--weights", "DEFAULT"), "--weights and --model-arg do not apply"),
    ],
)
def test_where_it_makes_no_sense(run, nets, tmp_path, words, message):
    with_code(nets, tmp_path / "best.pt")
    code, out, err = run(*words, "--allow-pickle")
    assert (code, out) == (2, "")
    assert message in err
    assert runs(tmp_path) == 0
