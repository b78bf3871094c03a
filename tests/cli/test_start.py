"""How the command line starts, and ends, where it is hardly there: Ctrl-C at once, and streams that are closed."""

from __future__ import annotations

import subprocess
import sys

import pytest

EARLY = """
import runpy, signal, sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == "bninspect.cli":
            signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupt())
sys.argv = ["bninspect", "--help"]
runpy.run_module("bninspect", run_name="__main__")
"""


def test_ctrl_c_while_modules_are_imported(python):
    done = subprocess.run([*python, "-c", EARLY], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\nInterrupted.\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("check folder", "folder is a folder, and no model: give a file in it"),
        ("watch folder", "folder is no regular file: give the one that bninspect.watch writes"),
        (
            "report empty.json -o page.html",
            "empty.json is no report of bninspect, such as --format json writes: it is empty",
        ),
        ("stats resnet18 --batch *.jpg", "No such file or directory (a pattern is none: give the folder)"),
        ("demo empty.json", "the folder empty.json cannot be made: File exists"),
    ],
)
def test_something_of_another_kind_is_called_what_it_is(words, message, run, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.json").touch()
    code, out, err = run(*words.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


@pytest.mark.parametrize("words", ["rule BN203", "--help"])
def test_a_closed_standard_output_is_an_error_of_one_line(words):
    line = f"{sys.executable} -m bninspect {words} >&-"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "Error: Bad file descriptor\n")


def test_a_closed_standard_error_changes_nothing():
    line = f"{sys.executable} -m bninspect rule BN203 2>&-; {sys.executable} -m bninspect check no.pt 2>&-"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout.startswith("BN203 ")
