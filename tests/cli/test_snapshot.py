"""Snapshots at the command line: written by ``--update``, compared, and left as they were where that is refused."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import ended, without_privileges

import bninspect
from bninspect import writing
from bninspect.cli import run
from bninspect.errors import BNInspectError
from bninspect.inspection.snapshot import file as snapshot
from bninspect.inspection.snapshot.fingerprint import Fingerprint
from bninspect.report import Channels

NETS = """
import torch
from torch import nn

def make(eps=1e-5, shift=0.0):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6, eps=eps)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), norm, nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4))
    with torch.no_grad():
        model[0].bias += shift
    return model
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a model's code and two batches, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "nets.py").write_text(NETS)
    torch.manual_seed(0)
    torch.save(torch.randn(4, 3, 12, 12), tmp_path / "batch.pt")
    torch.save(torch.randn(4, 3, 12, 12), tmp_path / "other.pt")
    return tmp_path


STATS = ["stats", "nets.py:make", "--batch", "batch.pt", "--snapshot", "bn.json"]


# --- from the command line


def test_the_noise_of_batches_has_a_snapshot(project, capsys):
    words = ["noise", "nets.py:make", "--batch", "batch.pt", "--batch-size", "2", "--snapshot", "noise.json"]
    assert run(words) == 2
    assert "write it with: bninspect noise" in capsys.readouterr().err
    assert run([*words, "--update"]) == 0
    assert run(words) == 0
    assert "No difference in 2 layers." in capsys.readouterr().out
    assert run([*words, "--draws", "30", "--format", "json"]) == 1
    found = {(one["path"], one["field"]) for one in json.loads(capsys.readouterr().out)["differences"]}
    assert {("", "draws"), ("1", "shift"), ("1", "scale")} <= found
    assert run([*words[:3], "other.pt", *words[4:]]) == 2
    assert "made of another batch" in capsys.readouterr().err


def test_the_tensors_of_steps_of_any_kind_tell_batches_apart(project, capsys):
    (project / "steps.py").write_text("def step(model, batch): return model(batch['image'])")
    for name, value in (("a", 0.0), ("b", 1.0)):
        torch.save({"image": torch.full((4, 3, 12, 12), value), "label": torch.arange(4)}, project / f"{name}.pt")
    for command in ("stats", "check"):
        words = [command, "nets.py:make", "--forward", "steps.py:step", "--snapshot", f"{command}.json", "--batch"]
        assert run([*words, "a.pt", "--update"]) == 0
        assert run([*words, "a.pt"]) == 0
        assert run([*words, "b.pt"]) == 2
        assert "made of another batch" in capsys.readouterr().err


def test_a_missing_snapshot_names_the_command_that_writes_it(project, capsys):
    assert run(STATS) == 2
    said = capsys.readouterr().err
    assert "there is no snapshot bn.json" in said
    command = shlex.split(said.partition("write it with: ")[2])
    assert command[0] == "bninspect"
    assert run(command[1:]) == 0
    assert run(STATS) == 0
    shown = capsys.readouterr().out
    assert "No difference in 2 layers." in shown
    assert "Note" not in shown


def test_differences_are_printed_and_exit_1(project, capsys):
    assert run([*STATS, "--update"]) == 0
    assert run([*STATS, "--model-arg", "shift=0.5"]) == 1
    shown = capsys.readouterr().out
    assert re.search(r"figure +1 +mean_max", shown)
    assert run([*STATS, "--model-arg", "eps=1e-3", "--format", "json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert {"eps"} == {entry["field"] for entry in found["differences"] if entry["what"] == "setting"}


def test_update_leaves_alone_what_is_within_the_tolerance(project, capsys):
    assert run([*STATS, "--update"]) == 0
    written = (project / "bn.json").read_bytes()
    stored = json.loads(written)
    stored["layers"][0]["mean_max"] += 1e-6
    (project / "bn.json").write_text(json.dumps(stored))
    edited = (project / "bn.json").read_bytes()
    assert run([*STATS, "--update"]) == 0
    assert (project / "bn.json").read_bytes() == edited
    assert "was left as it is" in capsys.readouterr().err
    stored["layers"][0]["mean_max"] += 1
    (project / "bn.json").write_text(json.dumps(stored))
    assert run(STATS) == 1
    assert run([*STATS, "--update"]) == 0
    assert (project / "bn.json").read_bytes() == written


def test_another_batch_is_refused_and_updated(project, capsys):
    assert run([*STATS, "--update"]) == 0
    other = [*STATS[:3], "other.pt", *STATS[4:]]
    before = (project / "bn.json").read_bytes()
    assert run(other) == 2
    assert "made of another batch" in capsys.readouterr().err
    assert (project / "bn.json").read_bytes() == before
    assert run([*other, "--update"]) == 0
    assert run(other) == 0


def test_update_does_not_overwrite_what_it_cannot_read(project, capsys):
    for content in ("{}", '{"weights": [1, 2, 3]}', '{"schema": "bninspect.stats", "schema_version": 99}'):
        (project / "bn.json").write_text(content)
        assert run([*STATS, "--update"]) == 2
        assert (project / "bn.json").read_text() == content
    assert "written by a newer bninspect" in capsys.readouterr().err


def test_another_torch_is_a_note(project, capsys):
    assert run([*STATS, "--update"]) == 0
    stored = json.loads((project / "bn.json").read_text())
    assert stored["tool"]["torch"] == torch.__version__
    assert stored["tool"]["device"] == "cpu"
    stored["tool"]["torch"] = "2.10.0"
    (project / "bn.json").write_text(json.dumps(stored))
    assert run(STATS) == 0
    assert (
        f"made with torch 2.10.0, and compared with one made with torch {torch.__version__}" in capsys.readouterr().out
    )


def test_a_summary_has_snapshots_too(project, capsys):
    command = ["summary", "nets.py:make", "--input", "3,12,12", "--snapshot", "s.json"]
    assert run([*command, "--update"]) == 0
    assert run(command) == 0
    assert run([*command, "--model-arg", "eps=0.1"]) == 1
    assert "eps" in capsys.readouterr().out
    assert run([*STATS[:4], "--snapshot", "s.json"]) == 2
    assert "a snapshot of another command" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--update"], "say which by --snapshot"),
        (["--snapshot", "s.json", "--format", "ordereddict"], "not as ordereddict"),
        (["--snapshot", "s.json", "-o", "s.json", "--update"], "are the same file"),
        (["--snapshot", "s.json", "--update", "--tolerance", "tight"], "'tight' is no tolerance"),
        (["--snapshot", "s.json", "--update", "--tolerance", "1e-3"], "is no tolerance"),
        (["--snapshot", "s.json", "--update", "--tolerance", "nan,1"], "is no tolerance"),
        (["--snapshot", "no/such/folder/s.json", "--update"], "cannot be written: No such file or directory"),
    ],
)
def test_usage_errors(project, capsys, extra, said):
    assert run(["summary", "nets.py:make", "--input", "3,12,12", *extra]) == 2
    assert said in capsys.readouterr().err
    assert not list(project.glob("*.json"))


def test_bytes_are_the_same_in_another_process(project, python):
    for name, words in (("one", python), ("two", [sys.executable])):  # whose hashes differ
        command = [*words, "-m", "bninspect", *STATS[:-1], f"{name}.json", "--channels", "--update"]
        subprocess.run(command, check=True, capture_output=True)
    for suffix in ("json", "safetensors"):
        first, second = ((project / f"{name}.{suffix}").read_bytes() for name in ("one", "two"))
        assert first == second
        assert len(first) > 1000


def test_channels_are_kept_beside_and_compared(project, capsys):
    assert run([*STATS, "--channels", "--update"]) == 0
    stored = snapshot.load(project / "bn.json")
    exec(NETS, code := {})
    live = bninspect.stats(code["make"](), torch.load(project / "batch.pt"))
    for ours, theirs in zip(stored.layers, live.layers, strict=True):
        for name in Channels.__struct_fields__:
            np.testing.assert_array_equal(getattr(ours.channels, name), getattr(theirs.channels, name))
    assert run([*STATS, "--model-arg", "shift=0.01", "--format", "json"]) == 1
    found = json.loads(capsys.readouterr().out)["differences"]
    assert any(entry["what"] == "channels" and entry["num_channels"] == 6 for entry in found)
    assert run([*STATS, "--model-arg", "shift=0.01", "--update"]) == 0
    assert snapshot.load(project / "bn.json").layers[0].channels is not None  # vectors stay without being asked for


def test_json_with_vectors_in_it_is_a_snapshot_too(project, capsys):
    inline = ["stats", "nets.py:make", "--batch", "batch.pt", "--channels", "--format", "json", "-o", "bn.json"]
    assert run(inline) == 0
    assert run(STATS) == 0
    capsys.readouterr()
    assert run([*STATS, "--model-arg", "shift=0.01", "--format", "json"]) == 1
    assert "channels" in {each["what"] for each in json.loads(capsys.readouterr().out)["differences"]}


def test_check_has_snapshots_of_its_findings(project, capsys):
    command = ["check", "nets.py:make", "--batch", "batch.pt", "--snapshot", "findings.json"]
    assert run([*command, "--update"]) == 0
    assert run(command) == 0
    assert run([*command, "--model-arg", "eps=10.0"]) == 1
    assert "findings." in capsys.readouterr().out
    assert run([*command[:3], "other.pt", *command[4:]]) == 2


# --- where nothing can be written


def test_a_device_is_written_to_and_stays_one(project):
    command = [sys.executable, "-m", "bninspect", "schema", "stats"]
    with Path("/dev/full").open("w") as full:
        done = ended(command, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert "No space left on device" in done.stderr
    with pytest.raises(BNInspectError, match="/dev/full cannot be written: No space left on device"):
        writing.write(Path("/dev/full"), "x")
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)
    with pytest.raises(BNInspectError, match="Is a directory"):
        writing.write(project, "x")


def test_a_read_only_folder_leaves_the_old_snapshot(project):
    for name, shift in (("old", 0), ("new", 1)):  # of files, which needs no import of torch
        torch.save({"bn.running_mean": torch.full((3,), float(shift)), "bn.running_var": torch.ones(3)}, f"{name}.pt")
    assert run(["stats", "old.pt", "--snapshot", "bn.json", "--update"]) == 0
    before = (project / "bn.json").read_bytes()
    project.chmod(0o555)
    try:
        command = [*without_privileges(), sys.executable, "-m", "bninspect", "stats", "new.pt"]
        done = ended([*command, "--snapshot", "bn.json", "--update"])
    finally:
        project.chmod(0o755)
    assert done.returncode == 2
    assert done.stderr == "Error: bn.json cannot be written: Permission denied\n"
    assert (project / "bn.json").read_bytes() == before


# --- what tells batches apart


def test_a_fingerprint_does_not_depend_on_pieces():
    torch.manual_seed(0)
    x = torch.randn(10, 3, 4, 4)
    whole = Fingerprint(x).digest
    assert Fingerprint((x,)).digest == whole
    assert Fingerprint(x.to(memory_format=torch.channels_last)).digest == whole
    streamed = Fingerprint(piece for piece in x.split(3))
    assert [len(piece) for piece in streamed.data] == [3, 3, 3, 1]
    assert streamed.digest == whole


def test_a_fingerprint_sees_every_change():
    torch.manual_seed(0)
    x = torch.randn(10, 4)
    one_bit = x.clone()
    one_bit.view(torch.int32)[9, 3] ^= 1
    others = [one_bit, x[:9], x.T.contiguous(), x.reshape(10, 2, 2), x.view(torch.int32), (x, x), x.bfloat16()]
    digests = {Fingerprint(other).digest for other in (x, *others)}
    assert len(digests) == 1 + len(others)


# --- what the page on CI tells to paste

PAGE = Path(__file__).parents[2] / ".github" / "docs" / "ci.md"


def test_the_commands_of_the_page_run(project, capsys):
    section = PAGE.read_text(encoding="utf-8")
    commands = re.findall(r"(?<=[ \t])bninspect ((?:stats|summary|diff) [^`|\n]+)", section)
    assert len(commands) >= 8
    updates = [command for command in commands if "--update" in command]
    for command in updates + [command for command in commands if command not in updates]:
        if "A B" in command:
            continue
        if command.startswith("diff"):
            shutil.copy("bn.json", "new.json")
        assert run(shlex.split(command)) == 0, (command, capsys.readouterr())


def test_the_workflow_fails_with_bninspect_and_not_with_tee(project, python):
    """The job's own shell line: `bash --noprofile --norc -eo pipefail`, with the table in the summary file."""
    line = re.search(r"- run: (bninspect stats .*tee.*)", PAGE.read_text(encoding="utf-8"))[1]
    assert run([*STATS, "--update"]) == 0
    line = line.replace("bninspect", f"{shlex.join(python)} -m bninspect", 1)
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", line.replace("stats", "stats --seed 1", 1)]
    environment = {**os.environ, "GITHUB_STEP_SUMMARY": str(project / "summary.md")}
    for expected, text in ((0, "No difference in 2 layers"), (1, "| figure | 1 | mean\\_max |")):
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        assert done.returncode == expected, done.stderr
        assert text in (project / "summary.md").read_text()
        (project / "nets.py").write_text(NETS.replace("shift=0.0", "shift=0.5"))
