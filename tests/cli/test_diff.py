"""``bninspect diff``: its exit codes, its sides of every kind, and the promises of its formats and schemas."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from xml.etree import ElementTree

import jsonschema
import numpy as np
import pytest
import torch
from compared import batch, fields, layers_of, network, with_channel, without_channels

import bninspect
from bninspect import codec
from bninspect.cli import run
from bninspect.errors import SourceError
from bninspect.inspection.snapshot import file as snapshot
from bninspect.inspection.stats.stored import stored_stats as of_layers
from bninspect.report import Source

LAYERS = "nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, eps=0.001), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)"
FORMATS = ("table", "json", "markdown", "csv", "github", "junit")


@pytest.fixture(scope="module")
def report():
    return bninspect.stats(network(), batch())


# --- the command and its formats


@pytest.fixture
def files(tmp_path, monkeypatch, report):
    monkeypatch.chdir(tmp_path)
    snapshot.save(tmp_path / "a.json", report, vectors=True)
    (tmp_path / "same.json").write_text(codec.encode(report))
    snapshot.save(tmp_path / "b.json", bninspect.stats(network(seed=1), batch()), vectors=True)
    snapshot.save(tmp_path / "s.json", bninspect.summary(network(), (3, 12, 12)))
    return tmp_path


@pytest.mark.parametrize("fmt", FORMATS)
def test_exit_codes_and_formats(files, capsys, fmt):
    assert run(["diff", "a.json", "same.json", "--format", fmt]) == 0
    assert run(["diff", "a.json", "b.json", "--format", fmt]) == 1
    assert run(["diff", "a.json", "none.json", "--format", fmt]) == 2
    shown = capsys.readouterr()
    assert "running_mean" in shown.out.replace("\\", "")
    assert shown.err.count("\n") == 1


def test_formats_agree(files, capsys):
    run(["diff", "a.json", "b.json", "--format", "json"])
    found = codec.decode(capsys.readouterr().out.encode(), "stdout")
    run(["diff", "a.json", "b.json", "--format", "csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["what"], row["path"], row["field"]) for row in rows] == fields(found)
    run(["diff", "a.json", "b.json"])
    text = capsys.readouterr().out
    assert all(each.field in text for each in found.differences)
    assert f"{len(found.differences)} differences in 2 places." in text


def test_hostile_names_stay_text(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "=cmd|'\x1b[31m|[bold]<b>\n"
    for file, size in (("a.json", 4), ("b.json", 5)):
        snapshot.save(tmp_path / file, of_layers(layers_of((name, size)), Source()))
    for fmt in FORMATS:
        assert run(["diff", "a.json", "b.json", "--format", fmt]) == 1
        out = capsys.readouterr().out
        assert "\x1b" not in out
        if fmt == "csv":
            (row,) = list(csv.DictReader(io.StringIO(out)))
            assert row["path"].startswith("'=")
        if fmt == "markdown":
            assert "<b>" not in out.replace("\\<b\\>", "")


def test_stored_reports_are_compared_without_torch(files):
    code = (
        "import sys\nfrom bninspect.cli import run\n"
        "code = run(sys.argv[1:])\nsys.exit(9 if 'torch' in sys.modules else code)"
    )
    for pair, expected in ((("a.json", "same.json"), 0), (("a.json", "b.json"), 1)):
        done = subprocess.run([sys.executable, "-c", code, "diff", *pair], check=False, capture_output=True)
        assert done.returncode == expected, done.stderr


def test_a_model_against_a_stored_report(files, capsys):
    (files / "nets.py").write_text(
        "import torch\nmodel = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3), torch.nn.BatchNorm2d(6))"
    )
    assert run(["diff", "s.json", "nets.py:model", "--format", "json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert ("removed", "4") in {(each["what"], each["path"]) for each in found["differences"]}
    assert ("eps", 1e-3, 1e-5) in {(each["field"], each["a"], each["b"]) for each in found["differences"]}
    assert run(["diff", "nets.py:model", "nets.py:model"]) == 0


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """Two ranks' state dicts (equal parameters), and one of another training."""
    from safetensors.torch import save_file

    monkeypatch.chdir(tmp_path)
    states = {"rank0": network().state_dict(), "rank1": network().state_dict(), "other": network(seed=1).state_dict()}
    states["rank1"]["4.running_var"] *= 2
    for name, state in states.items():
        torch.save(state, f"{name}.pt")
        save_file(state, f"{name}.safetensors")
    return tmp_path


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_checkpoints_are_compared_without_torch(checkpoints, suffix):
    code = (
        "import sys\nfrom bninspect.cli import run\n"
        "code = run(sys.argv[1:])\nsys.exit(9 if 'torch' in sys.modules else code)"
    )
    for other, expected in (("rank0", 0), ("rank1", 1), ("other", 1)):
        command = ["diff", f"rank0.{suffix}", f"{other}.{suffix}", "--format", "json"]
        done = subprocess.run([sys.executable, "-c", code, *command], check=False, capture_output=True, text=True)
        assert done.returncode == expected, done.stderr
        assert json.loads(done.stdout)["statistics_only"] == (["4"] if other == "rank1" else [])


def test_a_checkpoint_against_a_model_and_a_snapshot(checkpoints, capsys):
    (checkpoints / "nets.py").write_text(
        "from torch import nn\n\ndef make():\n    return nn.Sequential(" + LAYERS + ")\n"
    )
    assert run(["diff", "rank0.pt", "nets.py:make", "--checkpoint", "rank0.pt"]) == 0
    assert run(["diff", "rank0.pt", "nets.py:make", "--checkpoint", "other.pt"]) == 1
    assert run(["stats", "rank0.pt", "--snapshot", "bn.json", "--channels", "--update"]) == 0
    assert run(["diff", "bn.json", "rank0.safetensors"]) == 0
    assert run(["stats", "rank1.pt", "--snapshot", "bn.json"]) == 1
    assert run(["summary", "rank0.pt", "--snapshot", "s.json", "--update"]) == 0
    assert run(["summary", "rank1.pt", "--snapshot", "s.json"]) == 0
    capsys.readouterr()
    assert run(["diff", "rank0.pt", "rank1.pt", "--checkpoint", "other.pt"]) == 2
    assert "both sides are files" in capsys.readouterr().err


# --- the schema


def reports(report):
    other = bninspect.stats(network(seed=1), batch())
    broken = with_channel(report, "running_var", 0, np.nan)
    return [
        report,
        without_channels(report),
        broken,
        bninspect.stats(None, torch.randn(4, 3), values=True),
        bninspect.summary(network(), (3, 12, 12), all_layers=True),
        bninspect.diff(report, other),
        bninspect.diff(report, broken),
        bninspect.check(network(), batch()),
        bninspect.diff(bninspect.summary(network(), (3, 12, 12)), layers_of(("x", 3))),
        of_layers(layers_of(("x", 3)), Source(evidence="tensors")),
    ]


def test_every_report_fits_its_schema_and_reads_back(report):
    for each in reports(report):
        text = codec.encode(each)
        schema = codec.json_schema(each.schema)
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(json.loads(text), schema)
        assert codec.encode(codec.decode(text.encode(), "it")) == text
    seen = {each.schema for each in reports(report)}
    assert seen >= {"bninspect.summary", "bninspect.stats", "bninspect.diff", "bninspect.check"}


def test_a_schema_refuses_what_no_writer_writes(report):
    content = json.loads(codec.encode(report))
    content["layers"][0]["channels"]["mean"][0] = "much"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, codec.json_schema("stats"))


def test_the_command_prints_a_schema(capsys):
    assert run(["schema"]) == 0
    names = capsys.readouterr().out.split()
    assert {"summary", "stats", "diff"} <= set(names)
    for name in names:
        assert run(["schema", name]) == 0
        assert json.loads(capsys.readouterr().out) == codec.json_schema(name)
    assert run(["schema", "nothing"]) == 2
    with pytest.raises(SourceError, match="its name is one of summary, stats"):
        codec.json_schema("nothing")


def test_annotations_stop_where_github_does(files, capsys):
    assert run(["diff", "a.json", "b.json", "--format", "github"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("::error title=BatchNorm ") for line in lines) == 10
    assert "more differences are in the report" in lines[10]
    assert lines[-1].startswith("bninspect diff: ")


def test_junit_has_a_case_for_each_place_that_differs(files, capsys):
    assert run(["diff", "a.json", "b.json", "--format", "junit"]) == 1
    suite = ElementTree.fromstring(capsys.readouterr().out)
    assert run(["diff", "a.json", "b.json", "--format", "json"]) == 1
    places = {found["path"] or "(model)" for found in json.loads(capsys.readouterr().out)["differences"]}
    assert {case.get("name") for case in suite.iter("testcase")} == places
    assert suite.get("failures") == suite.get("tests") == str(len(places))
    assert run(["diff", "a.json", "a.json", "--format", "junit"]) == 0
    suite = ElementTree.fromstring(capsys.readouterr().out)
    assert (suite.get("tests"), suite.get("failures")) == ("1", "0")
