"""``bninspect check`` and ``bninspect rule``: exit codes, settings, formats, names that mean harm."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import torch
from processes import ended
from torch import nn

NETS = """
import torch
from torch import nn

def healthy():
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())

def warned():
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, momentum=0.99), nn.ReLU())

def broken():
    model = warned()
    model[1].running_var[1] = -1
    return model

def told():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

def hostile():
    model = nn.Sequential()
    model.add_module("a\\n::error title=x::%0Aboo]]>\\x1b[2J|`<b>,", nn.BatchNorm2d(3, momentum=0.99))
    return model

class Failing(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) @ torch.zeros(7, 7)

def failing():
    return Failing(3)

def nothing():
    return nn.Sequential(nn.Conv2d(5, 4, 3), nn.ReLU())

def frozen():
    from torchvision.ops import FrozenBatchNorm2d
    return nn.Sequential(nn.Conv2d(3, 4, 3), FrozenBatchNorm2d(4), nn.ReLU())

def many():
    return nn.Sequential(*[nn.BatchNorm2d(3, momentum=0.99, eps=0.0) for _ in range(30)])
"""


@pytest.fixture
def check(run, tmp_path):
    (tmp_path / "nets.py").write_text(NETS)

    def call(name, *arguments):
        return run("check", f"nets.py:{name}", "--input", "3,8,8", *arguments)

    return call


@pytest.mark.parametrize(
    ("name", "options", "code"),
    [
        ("healthy", [], 0),
        ("warned", [], 1),
        ("warned", ["--fail-on", "error"], 0),
        ("warned", ["--fail-on", "never"], 0),
        ("warned", ["--exit-zero"], 0),
        ("warned", ["--ignore", "BN2"], 0),
        ("warned", ["--select", "BN1,BN3"], 0),
        ("warned", ["--select", "BN1", "--select", "BN205"], 1),
        ("broken", ["--fail-on", "error"], 1),
        ("told", [], 0),
        ("told", ["--fail-on", "info"], 1),
    ],
)
def test_the_exit_code_says_whether_there_are_findings(check, name, options, code):
    found, out, err = check(name, *options)
    assert (found, err) == (code, "")
    assert out.startswith(f"Check of nets.py:{name}")


def test_the_table_says_where_what_and_what_to_do(check):
    _, out, _ = check("broken")
    assert "\nerror   BN102  running_var is negative (negative-running-var)\n" in out
    assert "\n  where  1 [channel 1]: running_var_min -1\n  why    No data has a negative variance." in out
    assert "\n  do     Set momentum to 1 minus the value" in out
    assert "2 findings: 1 error, 1 warning in 1 BatchNorm layer\n" in out
    assert re.search(r"\nNot looked at: \d+ rules need --batch SOURCE", out)


def test_unknown_codes_and_values_are_usage_errors(check):
    code, out, err = check("healthy", "--select", "BN9")
    assert (code, out) == (2, "")
    assert "families are BN1, BN2, BN3, BN4" in err
    assert check("healthy", "--fail-on", "sometimes")[0] == 2


def test_random_batches_give_no_findings_of_data(check):
    code, out, _ = check("healthy", "--batch", "random", "--select", "BN4")
    assert code == 0
    assert "the batch is made up" in out


def test_json_is_the_report(check):
    _, out, _ = check("broken", "--format", "json")
    report = json.loads(out)
    assert report["schema"] == "bninspect.check"
    assert [finding["code"] for finding in report["findings"]] == ["BN102", "BN205"]
    assert report["findings"][0]["channels"] == [1]
    assert report["findings"][0]["evidence"] == {"num_channels": 1, "running_var_min": -1.0}


def test_csv_has_a_line_for_each_layer(check):
    _, out, _ = check("many", "--format", "csv", "--select", "BN205")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["path"] for row in rows] == [str(index) for index in range(30)]
    assert {row["code"] for row in rows} == {"BN205"}
    assert rows[0]["evidence"] == "momentum=0.99"


def test_markdown_escapes_names(check):
    _, out, _ = check("hostile", "--format", "markdown")
    assert (
        r"- where: a\\n::error title=x::%0Aboo\]\]\>\\x1b\[2J\|\`\<b\>,: the newest batch weighs 99% (momentum" in out
    )
    assert not re.search(r"(?<!\\)[|`]", out)
    assert "<b>" not in out.replace("\\<b\\>", "")
    assert "\x1b" not in out


def test_github_annotations_cannot_be_forged(check):
    code, out, _ = check("hostile", "--format", "github")
    lines = out.splitlines()
    assert code == 1
    assert {line.partition(" ")[0] for line in lines[:-1]} == {"::warning", "::notice"}
    assert lines[-1].startswith("bninspect check: ")
    assert lines[0].startswith("::warning title=BN205 tf-momentum::")
    assert "%250Aboo" in lines[0]
    assert "\x1b" not in out


def test_github_shows_ten_of_a_level_and_one_line_more(check):
    from bninspect.render import github
    from bninspect.report import CheckReport, Finding, Source, Tool

    findings = tuple(
        Finding(code=f"BN1{n:02}", name="a-b", severity="error", message="m", fix="f, 100 %: \r\n") for n in range(23)
    )
    report = CheckReport(
        tool=Tool(bninspect="1", python="3"),
        source=Source(model="a,b:c.pth", evidence="tensors"),
        num_layers=1,
        findings=findings,
    )
    lines = github.render(report, color=False, width=None).splitlines()
    assert sum(line.startswith("::error ") for line in lines) == 10
    assert lines[10] == "13 more of level error are in the report, and not annotated"
    assert lines[0].startswith("::error file=a%2Cb%3Ac.pth,title=BN100 a-b::m, in the model%0Af, 100 %25: ")
    assert len(lines) == 12


def test_junit_counts_cases_failures_and_skips(check):
    _, out, _ = check("hostile", "--format", "junit", "--select", "BN2,BN301,BN401")
    suite = ET.fromstring(out)
    assert suite.tag == "testsuite"
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped"), suite.get("errors")) == (
        "13",
        "1",
        "1",
        "0",
    )
    failure = suite.find("testcase[@name='BN205']/failure")
    assert failure.get("type") == "warning"
    assert "\\x1b[2J" in failure.get("message")
    assert "boo]]>" in failure.get("message")


def test_settings_come_from_the_nearest_pyproject(check, tmp_path):
    (tmp_path / "pyproject.toml").write_text('[tool.bninspect]\nfail-on = "error"\nignore = ["BN204"]\n')
    assert check("warned")[0] == 0
    assert check("warned", "--fail-on", "warning")[0] == 1
    (tmp_path / "pyproject.toml").write_text('[tool.bninspect]\nignore = ["BN2"]\n')
    assert check("warned")[0] == 0
    assert check("warned", "--ignore", "BN3")[0] == 1
    (tmp_path / "pyproject.toml").write_text("[tool.bninspect]\nexit-zero = true\n")
    assert check("warned")[0] == 0
    (tmp_path / "pyproject.toml").write_text("[tool.other]\nx = 1\n")
    assert check("warned")[0] == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('fail_on = "error"', "unknown key 'fail_on': did you mean fail-on?"),
        ("colour = 1", "unknown key 'colour': it may have select, ignore, fail-on, exit-zero"),
        ('fail-on = "sometimes"', "fail-on must be one of error, warning, info, never"),
        ('select = "BN1"', "select must be a list of codes"),
        ("select = [1]", "select must be a list of codes"),
        ("exit-zero = 1", "exit-zero must be true or false"),
        ("exit-zero = ", "cannot be read"),
    ],
)
def test_wrong_settings_are_refused(check, tmp_path, text, words):
    (tmp_path / "pyproject.toml").write_text(f"[tool.bninspect]\n{text}\n")
    code, out, err = check("healthy")
    assert (code, out) == (2, "")
    assert words in err


def test_colours_obey_the_environment(check, monkeypatch):
    assert "\x1b[" not in check("broken")[1]
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured = check("broken")[1]
    assert "\x1b[1;31merror" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    plain = check("broken")[1]
    assert plain == re.sub(r"\x1b\[[0-9;]*m", "", coloured)


def test_head_takes_the_first_line_of_check_and_rule(python, tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    for arguments, first in (
        (["check", "nets.py:many", "--input", "3,8,8"], "Check of nets.py:many"),
        (["rule"], "BN101"),
    ):
        words = shlex.join([*python, "-m", "bninspect", *arguments])
        done = subprocess.run(
            ["bash", "-c", f"{words} | head -1; exit ${{PIPESTATUS[0]}}"],
            cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        assert done.stdout.startswith(first)
        assert (done.stdout.count("\n"), done.stderr) == (1, "")
        assert done.returncode in (0, 1, 141)


def test_what_cannot_be_checked_gets_one_clear_answer(run, tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    torch.save(torch.randn(4, 5, 8, 8), tmp_path / "wrong.pt")
    torch.save(nn.BatchNorm2d(5).state_dict(), tmp_path / "stored.pt")
    for arguments, words in (
        (["nets.py:failing", "--input", "3,8,8"], "the forward of nets.py:failing on [2, 3, 8, 8] failed in Failing"),
        (["nets.py:healthy", "--batch", "wrong.pt"], "failed in layer 0, Conv2d(3, 4"),
        (["stored.pt", "--batch", "wrong.pt"], "name the model that they belong to: MODEL --checkpoint stored.pt"),
    ):
        code, out, err = run("check", *arguments)
        assert (code, out) == (2, "")
        assert words in err
    code, out, err = run("check", "nets.py:nothing", "--batch", "wrong.pt", "--format", "json")
    assert (code, err) == (0, "")
    assert {silent["reason"] for silent in json.loads(out)["silent"]} == {"there is no BatchNorm layer"}
    code, _, err = run("check", "nets.py:frozen", "--input", "3,8,8", "-v")
    assert code == 0
    assert "not applied: BN205, BN206, because not there, or not known, in any layer: momentum\n" in err


def test_sets_of_a_checkpoint_are_told_apart(run, tmp_path):
    good, bad = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    bad.running_var[1] = -1
    states = {name: {f"bn.{key}": value for key, value in layer.state_dict().items()}
              for name, layer in {"model": good, "ema": bad}.items()}  # fmt: skip
    torch.save({**states, "epoch": 3}, tmp_path / "two.pt")
    code, out, _ = run("check", "two.pt")
    assert code == 1
    assert "  where  ema.bn [channel 1]: running_var_min -1\n" in out
    assert "2 sets of layers side by side" in out


def test_rule_lists_the_catalogue(run):
    code, out, _ = run("rule")
    assert code == 0
    lines = out.splitlines()
    assert len(lines) == 52
    assert lines[0].split()[:3] == ["BN101", "error", "non-finite-state"]
    assert len(run("rule", "BN2")[1].splitlines()) == 11


def test_rule_explains_one(run):
    code, out, _ = run("rule", "BN203")
    assert code == 0
    assert out.startswith("BN203 frozen-affine-live-statistics (warning at most)\n\nGamma and beta are frozen")
    for section in ("Why: ", "Do: ", "Hit: ", "Miss: "):
        assert f"\n{section}" in out
    assert run("rule", "frozen-affine-live-statistics")[1] == out
    assert run("rule", "bn203")[1] == out
    assert "Defaults: tiny = 1e-12, most = 0.5" in run("rule", "BN103")[1]


def test_an_unknown_rule_is_an_error_with_the_nearest(run):
    code, out, err = run("rule", "redundent-bias")
    assert (code, out) == (2, "")
    assert "did you mean redundant-bias?" in err


def test_rule_and_help_do_not_import_torch():
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONPROFILEIMPORTTIME": "1"}
    for arguments in (("rule",), ("rule", "BN401"), ("check", "--help"), ("check", "nosuchmodel", "--select", "BN9")):
        done = ended([sys.executable, "-m", "bninspect", *arguments], env=environment, capture_output=True)
        assert "numpy" in done.stderr or arguments[0] == "check"
        assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE), arguments
