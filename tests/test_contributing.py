"""What CONTRIBUTING says is so: the map is whole, and one new file adds a rule, a format, a source, and a command."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import bninspect

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")

ADDED = {
    "bninspect/rules/extra.py": '''
from bninspect.rules._rule import rule

@rule("info", "momentum")
def bn199_odd_momentum(facts):
    """The momentum is odd.

    Why: so that there is a rule.

    Do: nothing.

    Hit: BatchNorm2d(8, momentum=0.111).

    Miss: 0.1.
    """
    for bn in facts.having("momentum"):
        if bn.momentum == 0.111:
            yield bn.hit("the momentum is odd")
''',
    "bninspect/render/count.py": """
SCHEMAS = ("bninspect.check",)

def render(report, *, color, width):
    return f"findings: {[finding.code for finding in report.findings]}"
""",
    "bninspect/models/odd.py": """
from bninspect.models import LiveModel

SCHEME = "odd"

def accepts(text):
    return False

def load(value, options):
    from torch import nn

    return LiveModel(name=value, kind="odd", build=lambda: nn.Sequential(nn.BatchNorm2d(3, momentum=float(value))))
""",
    "bninspect/batches/ones.py": """
from bninspect.batches import Batch

SCHEME = "ones"

def accepts(text):
    return False

def load(value, options):
    import torch

    return Batch(name=value, kind="ones", data=(torch.ones(int(value), 3, 4, 4),))
""",
    "bninspect/cli/hello.py": '''
import click

SECTION = "To look up"

@click.command(short_help="Greet.")
def hello():
    """Greet."""
    click.echo("hello")
''',
}


def test_the_map_names_every_room():
    named = set(re.findall(r"^\| `([a-z_/]+)/` ", TEXT, re.MULTILINE))
    package = {f"bninspect/{path.parent.name}" for path in (ROOT / "bninspect").glob("*/__init__.py")}
    assert named == package | {"tests"}


def test_what_is_named_is_there():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for words in re.findall(r"`make ([a-z -]+)`", TEXT):
        assert set(words.split()) <= targets
    paths = re.findall(r"`((?:bninspect|tests)/[a-z_/.]+\.py)`", TEXT)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert f"## {bninspect.__version__}\n" in (ROOT / ".github" / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def extended(tmp_path_factory, python):
    """A copy of the package with the new files, and not one other change."""
    folder = tmp_path_factory.mktemp("contributed")
    shutil.copytree(ROOT / "bninspect", folder / "bninspect", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in ADDED.items():
        assert not (folder / name).exists()
        (folder / name).write_text(text, encoding="utf-8")

    def run(*arguments):
        return subprocess.run(
            [*python, "-m", "bninspect", *arguments], cwd=folder, capture_output=True, text=True, check=False
        )

    return run


def test_a_rule_a_format_and_a_source_are_one_file_each(extended):
    done = extended("check", "odd:0.111", "--format", "count")
    assert (done.returncode, done.stderr) == (0, "")
    assert "BN199" in done.stdout
    done = extended("check", "odd:0.1", "--format", "count")
    assert done.stdout.startswith("findings: ")
    assert "BN199" not in done.stdout
    assert "Why: so that there is a rule." in extended("rule", "BN199").stdout


def test_a_batch_and_a_command_are_one_file_each(extended):
    done = extended("stats", "odd:0.1", "--batch", "ones:5", "--format", "csv")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].startswith("0,BatchNorm2d,3,")
    assert extended("hello").stdout == "hello\n"
    assert "hello" in extended("--help").stdout
