"""``bninspect watch``: a run that goes on, one that ended, and one that was killed."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import time

import msgspec
import pytest
import torch
from loops import batch, broken_run, net, step
from rich.console import Console, Group

import bninspect
from bninspect.inspection.watch.reading import Reading
from bninspect.render._watch import live
from bninspect.render.table import parts

pytestmark = pytest.mark.filterwarnings("ignore::bninspect.errors.WatchWarning")


@pytest.fixture
def recorded(tmp_path):
    """A run of eight steps, whose second layer breaks at the sixth."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    with bninspect.watch(model, optimizer, every=2, to=tmp_path / "run.jsonl"):
        for number in range(1, 9):
            if number == 6:
                model[1][1].running_var[3] = float("nan")
            step(model, optimizer, *batch())
    return tmp_path / "run.jsonl"


def test_once_shows_the_state_layers_and_alarms(run, recorded):
    code, out, err = run("watch", recorded, "--once")
    lines = out.splitlines()
    assert (code, err) == (1, "")
    assert lines[0] == f"Training of Sequential, {recorded}"
    assert lines[2].startswith("step 8, ended; ")
    assert lines[3] == "1 alarm (1 error), the first at step 6"
    rows = [line.split()[0] for line in lines if line.startswith(("0.1", "1.1"))]
    assert rows == ["1.1", "0.1"]  # the worst first
    assert "error   BN101  step 6: stored values are NaN or infinite (non-finite-state)" in lines
    assert "  where  1.1 [channel 3]: nonfinite_state 1" in lines


def test_every_format_is_there(run, recorded):
    code, out, _ = run("watch", recorded, "--once", "--format", "json")
    report = json.loads(out)
    assert (code, report["schema"], report["state"], report["step"]) == (1, "bninspect.watch", "ended", 8)
    assert report["layers"][0]["alarms"] == ["BN101"]
    code, out, _ = run("watch", recorded, "--once", "--format", "csv")
    assert out.splitlines()[0].startswith("path,kind,num_features,training,updates,d_median")
    assert len(out.splitlines()) == 3
    code, out, _ = run("watch", recorded, "--once", "--format", "markdown")
    assert "# Training of Sequential" in out


def test_a_run_without_an_alarm_ends_in_zero(run, tmp_path):
    with bninspect.watch(net(), to=tmp_path / "run.jsonl") as watch:
        watch.step()
    code, out, _ = run("watch", "run.jsonl")
    assert code == 0
    assert "no alarm so far" in out


def test_before_the_first_record_and_after_an_error(run, tmp_path):

    def fails():
        with bninspect.watch(net(), to=tmp_path / "run.jsonl"):
            code, out, _ = run("watch", "run.jsonl", "--once")
            assert code == 0
            assert "step 0, running; " in out
            assert "no record yet: the first comes at step 50" in out
            raise ValueError("no\x1b[31m")

    with pytest.raises(ValueError, match="no"):
        fails()
    _, out, _ = run("watch", "run.jsonl", "--once")
    assert "step 0, ended by an error: ValueError: no\\x1b[31m; " in out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no file run.jsonl: bninspect.watch(..., to='run.jsonl') makes it"),
        ("", "is no record of bninspect.watch: it is empty"),
        ("{}\n", "is no record of bninspect.watch: line 1: "),
        ("x" * 99, "is no record of bninspect.watch: its first line is no header of a run"),
    ],
)
def test_what_is_no_run_is_refused(run, tmp_path, text, words):
    if text is not None:
        (tmp_path / "run.jsonl").write_text(text)
    code, out, err = run("watch", "run.jsonl", "--once")
    assert (code, out) == (2, "")
    assert words in err


def test_a_line_that_does_not_fit_the_header_is_refused(run, recorded):
    lines = recorded.read_text().splitlines()
    record = json.loads(lines[1])
    record["layers"]["d_max"] = [0.0]
    recorded.write_text("\n".join([lines[0], json.dumps(record), ""]))
    code, _, err = run("watch", recorded, "--once")
    assert code == 2
    assert "a record has not as many layers as the header" in err


def test_other_commands_say_who_reads_a_record(run, recorded, tmp_path):
    for arguments in (("check", recorded), ("diff", recorded, recorded)):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert "it is the record of a training run: `bninspect watch` shows it" in err
    run("watch", recorded, "--once", "--format", "json", "-o", "run.json")
    code, out, err = run("diff", "run.json", "run.json")
    assert (code, out) == (2, "")
    assert "a run that was watched is of no one model: compare files that were saved in it" in err


def test_a_newer_record_is_refused(run, recorded):
    recorded.write_text(recorded.read_text().replace('"schema_version":1', '"schema_version":2', 1))
    code, _, err = run("watch", recorded, "--once")
    assert code == 2
    assert "a newer bninspect wrote it" in err


LOOP = """
import sys, time, torch, bninspect
from loops import batch, net, step
model = net()
optimizer = torch.optim.SGD(model.parameters(), 0.05)
with bninspect.watch(model, optimizer, every=1, to=sys.argv[1]):
    while True:
        step(model, optimizer, *batch())
        time.sleep(0.05)
"""


def test_a_run_is_followed_on_a_terminal_until_its_process_is_gone(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "100", "LINES": "30"}
    path = tmp_path / "run.jsonl"
    training = subprocess.Popen([sys.executable, "-c", LOOP, str(path)], env=environment)
    while not path.exists():
        time.sleep(0.05)
    ours, theirs = pty.openpty()
    watching = subprocess.Popen(
        [sys.executable, "-m", "bninspect", "watch", str(path)],
        env={**environment, "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    seen = b""
    while b"steps/s" not in seen:
        seen += os.read(ours, 4096)
    assert b"running" in seen
    assert watching.poll() is None
    training.send_signal(signal.SIGKILL)
    training.wait()
    out, _ = watching.communicate(timeout=60)
    os.close(ours)
    assert watching.returncode == 0
    assert "the process is gone, and did not say why" in out


def test_ctrl_c_ends_the_look_and_not_the_run(tmp_path):
    with bninspect.watch(net(), to=tmp_path / "run.jsonl") as watch:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        watching = subprocess.Popen(
            [sys.executable, "-X", "importtime", "-m", "bninspect", "watch", str(tmp_path / "run.jsonl")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for line in watching.stderr:
            if "rich.live" in line:
                break
        time.sleep(0.3)
        watching.send_signal(signal.SIGINT)
        _, err = watching.communicate(timeout=60)
        assert watching.returncode == 130
        assert "Traceback" not in err
        watch.step()


@pytest.mark.parametrize("height", [20, 24, 50])
def test_what_is_shown_live_fits_on_the_screen(height, tmp_path):
    """Of sixty layers and four alarms; a header line or an alarm may wrap."""
    broken_run(tmp_path / "run.jsonl")
    reading = Reading(tmp_path / "run.jsonl")
    reading.more()
    report = reading.report()
    many = msgspec.structs.replace(report, layers=report.layers * 30, alarms=report.alarms * 4)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(Group(*parts(live(many, height), 80)))
    lines = console.export_text().splitlines()
    assert len(lines) <= height
    assert "step 37: BN101 (error) stored values are NaN or infinite" in lines
    assert any(line.startswith("and ") and line.endswith(" more layers") for line in lines)
