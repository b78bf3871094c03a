"""Numbers of a table under each other by their point, short ranges, and no word broken where it need not be."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

from bninspect.render import table
from bninspect.render._columns import aligned, folded
from bninspect.render._view import Column, Table, View, span


def test_points_are_under_each_other():
    assert aligned(["1.25", "12", "-0.5", "1e-05", "1,200.5", "-", "<0.001"], "..") == [
        "    1.25 ",
        "   12    ",
        "   -0.5  ",
        "    1e-05",
        "1,200.5  ",
        "    -    ",
        "   <0.001",
    ]


def test_units_stay_with_their_numbers_and_words_end_where_the_longest_cell_does():
    assert aligned(["0.25 std", "x 4", "[64]"], "..") == ["  0.25 std", "x 4       ", "      [64]"]


def test_both_ends_of_ranges_are_under_each_other():
    cells = [span(-0.59123, 0.28814), span(0.0046123, 12.5), span(1, 1), span(None, 1)]
    assert aligned(cells, "…") == ["-0.59   …  0.29", " 0.0046 … 12.5 ", "           1   ", "           -   "]


@pytest.mark.parametrize(
    ("low", "high", "ends"),
    [
        (-0.59123, 0.28814, "-0.59 .. 0.29"),
        (0.99789, 7.0314, "1 .. 7.03"),
        (0, 1234.56, "0 .. 1,235"),
        (-1.23456e-7, 2.34567e8, "-1.2e-07 .. 2.346e+08"),
        (0.1875, 0.6875, "0.1875 .. 0.6875"),  # exactly so
        (0.38831, 0.38894, "0.3883 .. 0.3889"),  # as long as it takes to tell them apart
        (0.3, float("inf"), "0.3 .. inf"),
    ],
)
def test_a_range_is_short(low, high, ends):
    assert aligned([span(low, high)], "..") == [ends]


def test_a_range_of_other_formats_keeps_its_digits():
    assert span(-0.59123, 0.28814) == "-0.5912 .. 0.2881"


def test_a_long_name_is_broken_at_its_dots():
    assert folded("backbone.layer4.1.conv", 12) == "backbone.\nlayer4.1.\nconv"
    assert folded("see nets/with/long/names.py", 12) == "see nets/with/\nlong/names.\npy"
    assert folded("x" * 25, 10) == "\n".join(["x" * 10, "x" * 10, "x" * 5])
    assert folded("short words of a long line", 8) == "short words of a long line"


@pytest.mark.parametrize("width", [60, 80])
def test_a_name_wider_than_the_terminal_leaves_room_for_its_figures(width):
    name = "backbone.encoder.layers." * 5 + "层.norm"
    columns = (Column("layer", "left"), Column("mean"), Column("var", "right", 1))
    shown = View("", tables=(Table(columns, ((name, "1.25", "2"), ("bn", "-0.5", "10.25"))),))
    console = Console(width=width, file=io.StringIO())
    for part in table.parts(shown, width, ascii_only=False):
        console.print(part)
    _, _, _, _, *lines, last, note = console.file.getvalue().splitlines()
    assert max(map(cell_len, [*lines, note])) <= width
    assert "".join(line.split()[0] for line in lines) == name
    assert {line.split()[0][-1] for line in lines[:-1]} == {"."}
    assert (lines[0].split()[1:], last.split()) == (["1.25"], ["bn", "-0.5"])
    assert lines[0].index(".25") == last.index(".5")
    assert note == "(not shown for lack of width: var; --format csv has all)"


def test_a_terminal_without_an_ellipsis_has_ascii_of_its_width(tmp_path):
    torch.save({"running_mean": torch.tensor([-0.5, 0.3]), "running_var": torch.ones(2)}, tmp_path / "bn.pt")
    environment = {**os.environ, "COLUMNS": "80", "PYTHONIOENCODING": "ascii"}
    words = [sys.executable, "-m", "bninspect", "stats", "bn.pt"]
    found = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, check=True)
    text = found.stdout.decode("ascii")
    assert "\\u" not in text
    assert " -0.5 .. 0.3 " in text
    assert max(map(len, text.splitlines())) <= 80
