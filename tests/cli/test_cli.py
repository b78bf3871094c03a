"""The command line as a user meets it: results, refusals, exit codes, pipes and signals."""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import bninspect

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture
def files(tmp_path, note_batch):
    torch.save(note_batch, tmp_path / "note.pt")
    torch.save(torch.randn(6, 3, 8, 8), tmp_path / "batch.pt")
    (tmp_path / "nets.py").write_text(
        "import torch, time\nfrom torch import nn\ntorch.manual_seed(3)\n"
        "model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))\n"
        "class Slow(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.bn = nn.BatchNorm2d(3)\n"
        "    def forward(self, x):\n        time.sleep(0.3)\n        return self.bn(x)\n"
        "class Breaks(Slow):\n    def forward(self, x):\n        raise KeyError('a\\x1b[2Jb')\n"
    )
    return tmp_path


def test_summary_in_every_way_it_is_used(run, files):
    code, out, err = run("summary", "nets.py:model", "--input", "3,8,8")
    assert (code, err) == (0, "")
    assert "BatchNorm2d-3" in out
    code, out, _ = run("summary", "nets.py:model", "--input", "3,8,8", "--format", "json")
    report = json.loads(out)
    assert report["schema"] == "bninspect.summary"
    assert report["schema_version"] == 1
    assert [layer["name"] for layer in report["layers"]] == ["BatchNorm2d-1", "BatchNorm2d-3"]
    assert report["layers"][1]["weight_size"] == [4]
    assert report["totals"]["num_parameters"] == 6 + 16 + 8


def test_json_is_the_report_of_the_function(run, files):
    code, out, _ = run("stats", "nets.py:model", "--batch", "batch.pt", "--channels", "--format", "json")
    assert code == 0
    nets = {}
    exec((files / "nets.py").read_text(), nets)
    expected = bninspect.stats(nets["model"], torch.load(files / "batch.pt"))
    found = json.loads(out)
    for layer, twin in zip(found["layers"], expected.layers, strict=True):
        assert layer["path"] == twin.path
        assert layer["d_max"] == twin.d_max
        for name in ("mean", "var", "z", "running_var"):
            np.testing.assert_array_equal(layer["channels"][name], getattr(twin.channels, name))


def test_the_same_command_writes_the_same_bytes(run, files):
    first, second = (run("stats", "resnet18", "--batch", "batch.pt", "--format", "json")[1] for _ in range(2))
    assert first == second


def test_the_note_in_one_command(run, files):
    code, out, _ = run("stats", "--batch", "note.pt")
    assert code == 0
    for text in ("[[[[-1.7320,  0.5773]]", "[[ 0.3015, -0.9045]]", "[[ 1.5075, -0.9045]]", "0.1875 .. 0.6875"):
        assert text in out
    assert "-1.7320" not in run("stats", "--batch", "note.pt", "--no-values")[1]
    assert "Normalised" in run("stats", "--batch", "batch.pt", "--values")[1]
    assert "Normalised" not in run("stats", "--batch", "batch.pt")[1]


def test_synthetic_batches_are_labelled(run, files):
    code, out, _ = run("stats", "nets.py:model", "--batch", "random", "--input", "3,8,8", "--batch-size", "5")
    assert code == 0
    assert "5 synthetic images" in out
    assert "synthetic: distances" in out


def test_sort_and_top(run, files):
    arguments = ("stats", "nets.py:model", "--batch", "batch.pt", "--format", "json")
    full = json.loads(run(*arguments, "--channels")[1])
    values = sorted((abs(z) for layer in full["layers"] for z in layer["channels"]["z"]), reverse=True)
    top = json.loads(run(*arguments, "--channels", "--sort", "z", "--top", "3")[1])
    kept = sorted((abs(z) for layer in top["layers"] for z in layer["channels"]["z"]), reverse=True)
    assert kept == values[:3]
    for layer in top["layers"]:
        (twin,) = (other for other in full["layers"] if other["path"] == layer["path"])
        assert [twin["channels"]["z"][i] for i in layer["channels"]["index"]] == layer["channels"]["z"]
    layers = json.loads(run(*arguments, "--sort", "d_max")[1])["layers"]
    assert [layer["d_max"] for layer in layers] == sorted((layer["d_max"] for layer in layers), reverse=True)
    table = run("stats", "nets.py:model", "--batch", "batch.pt", "--channels", "--sort", "var", "--format", "csv")[1]
    assert table.startswith("path,kind,channel,mean,var,")
    code, _, err = run(*arguments, "--sort", "rr")
    assert code == 2
    assert "'rr' is no column of a layer" in err


def test_output_goes_to_a_file_whole_or_not_at_all(run, files):
    code, out, _ = run("summary", "nets.py:model", "--input", "3,8,8", "-o", "report.json", "--format", "json")
    assert (code, out) == (0, "")
    old = (files / "report.json").read_text()
    assert json.loads(old)["layers"]
    code, _, err = run("summary", "nets.py:model", "--input", "3,8,8", "-o", "no/such/folder/x", "--format", "json")
    assert code == 2
    assert "no/such/folder/x cannot be written: No such file" in err
    assert list(files.glob(".*tmp")) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["summary", "r3d_18"], "add --input C,H,W"),
        (["summary", "resnet18", "--input", "3,x,8"], "'3,x,8' is no shape"),
        (["summary", "resnet18", "--input", "3,0,8"], "is no shape"),
        (["summary", "resnet99", "--input", "3,8,8"], "did you mean"),
        (["summary", "nets.py:model", "--input", "4,8,8"], "layer 0, BatchNorm2d(3"),
        (["summary", "nets.py:Breaks", "--input", "3,8,8"], r"KeyError: 'a\x1b[2Jb'"),
        (["summary", "nets.py:model", "--input", "3,8,8", "--model-arg", "x"], "is not of the form name=value"),
        (["stats", "nets.py:model"], "Missing option '--batch'"),
        (["stats", "nets.py:model", "--batch", "missing.pt"], "there is no such file"),
        (["stats", "nets.py:model", "--batch", "batch.pt", "--layer", "x*"], "matches 'x*'"),
        (["stats", "nets.py:model", "--batch", "batch.pt", "--values"], "leave MODEL out"),
        (["stats", "nets.py:model", "--batch", "batch.pt", "--device", "cuda:99"], "give --device cpu"),
        (["stats", "nets.py:model", "--batch", "random"], "add --input"),
        (["stats", "--batch", "batch.pt", "--format", "ordereddict"], "'ordereddict' is not one of"),
        (
            ["stats", "nets.py:model", "--batch", "random", "--input", "3,900000,900000", "--batch-size", "64"],
            "not enough memory",
        ),
        (["sumary"], "No such command 'sumary'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals_are_one_clear_error(run, files, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert "\x1b" not in err
    assert sum(line.startswith("Error: ") for line in err.splitlines()) == 1


def test_internal_errors_are_one_line_with_a_way_to_see_more(run, files, monkeypatch):
    broken = "import bninspect.inspection.summary as s\nfrom torch import nn\n"
    (files / "evil.py").write_text(broken + "s.Counter = None\nmodel = nn.BatchNorm2d(3)\n")
    import bninspect.inspection.summary as module

    monkeypatch.setattr(module, "Counter", module.Counter)
    code, _, err = run("summary", "evil.py:model", "--input", "3,8,8")
    assert code == 2
    assert err.startswith("Error: internal error, TypeError")
    assert "BNINSPECT_DEBUG=1" in err


def test_help_and_version_do_not_import_torch():
    for arguments in (["--help"], ["--version"], ["summary", "--help"], ["stats", "--help"], ["nonsense"], ["summary"]):
        code = (
            f"import sys\nfrom bninspect import cli\ncli.run({arguments!r})\n"
            "heavy = {'torch', 'torchvision', 'numpy'} & set(sys.modules)\nassert not heavy, heavy\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_importing_the_package_does_not_import_torch():
    code = "import sys, bninspect\nassert 'torch' not in sys.modules\nassert 'summary' in dir(bninspect)\n"
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True)
    with pytest.raises(AttributeError, match="has no attribute 'sumary'"):
        bninspect.sumary  # noqa: B018


def test_version_and_help(command):
    assert command("--version").stdout == f"bninspect, version {bninspect.__version__}\n"
    assert "stats" in command("-h").stdout
    nothing = command()
    assert nothing.returncode == 2
    assert "Usage" in nothing.stderr + nothing.stdout


def start(python, files, *arguments):
    words, pipes = [*python, "-m", "bninspect", *arguments], {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(words, cwd=files, env=ENVIRONMENT, **pipes)


def test_a_closed_pipe_is_141_and_silent(files):
    """From the start of the interpreter to its end, which is where a pipe is looked at last."""
    process = start([sys.executable], files, "summary", "nets.py:model", "--input", "3,8,8", "--all-layers")
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == b""


def test_head_takes_the_first_line(python, files):
    done = subprocess.run(
        [f"{shlex.join(python)} -m bninspect summary nets.py:model --input 3,8,8 | head -1"],
        shell=True,
        cwd=files,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "Summary of nets.py:model\n"
    assert done.stderr == ""


def test_a_full_disk_is_said(python, files):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*python, "-m", "bninspect", "summary", "nets.py:model", "--input", "3,8,8"],
            cwd=files,
            env=ENVIRONMENT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "Error: standard output cannot be written: No space left on device\n"


def test_ctrl_c_is_130(python, files):
    process = start(python, files, "stats", "nets.py:Slow", "--batch", "batch.pt", "--batch-size", "1", "-v")
    process.stderr.readline()  # the batch was read
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.strip()) == (130, b"", b"Interrupted.")


def terminal(python, files, *arguments, columns=100):
    """The command on a real terminal: what the screen was sent, and the exit code."""
    parent, child = pty.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = subprocess.Popen(
        [*python, "-m", "bninspect", *arguments],
        cwd=files,
        env={**ENVIRONMENT, "TERM": "xterm"},
        stdin=child,
        stdout=child,
        stderr=child,
    )
    os.close(child)
    seen = b""
    while True:
        ready, _, _ = select.select([parent], [], [], 60)
        try:
            part = os.read(parent, 65536) if ready else b""
        except OSError:
            break
        if not part:
            break
        seen += part
    os.close(parent)
    return seen.decode(), process.wait(10)


def test_live_on_a_terminal(python, files):
    seen, code = terminal(python, files, "stats", "nets.py:Slow", "--batch", "batch.pt", "--batch-size", "1", "--live")
    assert code == 0
    assert seen.count("Statistics of nets.py:Slow") >= 3
    assert "\x1b[?25h" in seen  # the cursor is back


def test_live_off_a_terminal_changes_nothing(run, files):
    arguments = ("stats", "nets.py:model", "--batch", "batch.pt", "--batch-size", "2")
    assert run(*arguments, "--live") == run(*arguments)


def test_a_terminal_gets_colour_and_its_width(python, files):
    seen, _ = terminal(python, files, "summary", "nets.py:model", "--input", "3,8,8", columns=60)
    assert "\x1b[1m" in seen
    assert "not shown for lack of width" in seen
    plain, _ = terminal(python, files, "summary", "nets.py:model", "--input", "3,8,8", "--color", "never", columns=200)
    assert "\x1b[" not in plain


@pytest.mark.parametrize(
    ("environment", "flag", "colour"),
    [
        ("", "auto", False),
        ("FORCE_COLOR", "auto", True),
        ("FORCE_COLOR NO_COLOR", "auto", False),
        ("NO_COLOR", "always", True),
        ("FORCE_COLOR", "never", False),
    ],
)
def test_colour(run, files, monkeypatch, *, environment, flag, colour):
    for name in environment.split():
        monkeypatch.setenv(name, "1")
    assert ("\x1b[" in run("summary", "nets.py:model", "--input", "3,8,8", "--color", flag)[1]) is colour


def test_formats_may_be_set_by_the_environment(run, files, monkeypatch):
    monkeypatch.setenv("BNINSPECT_FORMAT", "json")
    assert json.loads(run("summary", "nets.py:model", "--input", "3,8,8")[1])
