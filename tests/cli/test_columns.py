"""Which columns the tables of ``stats`` and ``diff`` have, in which order, and which cells are coloured."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

RED, YELLOW = "\x1b[1;31m", "\x1b[1;33m"


def net(mean=0.0, var=1.0, count=100):
    model = nn.Sequential(nn.BatchNorm2d(3))
    model[0].running_mean.fill_(mean)
    model[0].running_var.fill_(var)
    model[0].num_batches_tracked.fill_(count)
    return model


@pytest.fixture
def stats(run, tmp_path, monkeypatch):
    """The table of ``stats`` for a model, and its line of heads."""

    def call(model, x, *options, columns=80):
        torch.save(x, tmp_path / "x.pt")
        torch.save(model.state_dict(), tmp_path / "model.pt")
        code = "from torch import nn\nmodel = nn.Sequential(nn.BatchNorm2d(3, track_running_stats={}))\n"
        (tmp_path / "nets.py").write_text(code.format(model[0].track_running_stats))
        monkeypatch.setenv("COLUMNS", str(columns))
        done, out, err = run("stats", "nets.py:model", "--checkpoint", "model.pt", "--batch", "x.pt", *options)
        assert (done, err) == (0, "")
        return out, next(line for line in out.splitlines() if "channels" in line)

    return call


def test_distances_come_first_where_there_are_running_statistics(stats):
    out, heads = stats(net(), torch.randn(8, 3, 6, 6))
    assert re.split(r"\s{2,}", heads.strip())[:5] == ["layer", "channels", "|d| median", "|d| max", "r"]
    assert "running_mean" in out  # told among what has no room


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (net(count=0), "were never updated"),
        (nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)), "are not kept"),
    ],
)
def test_means_and_variances_come_first_where_there_are_none(stats, model, why):
    out, heads = stats(model, torch.randn(8, 3, 6, 6))
    assert re.split(r"\s{2,}", heads.strip())[:4] == ["layer", "channels", "mean", "var"]
    assert "|d|" not in out
    assert f"Running statistics {why}: there is nothing to compare with." in out


def test_a_column_of_nothing_is_a_line_below(stats):
    x = torch.randn(8, 3, 6, 6)
    out, heads = stats(net(), x, columns=200)
    assert "In all layers: no channel is dead, no value is NaN or infinite, no value is zero." in out
    assert not {"dead", "nonfinite", "zeros"} & set(heads.split())
    x[0, 0, 0, 0], x[0, 1, 0, 0] = 0, torch.nan
    out, heads = stats(net(), x, columns=200)
    assert {"nonfinite", "zeros"} <= set(heads.split())
    assert "In all layers: no channel is dead." in out


@pytest.mark.parametrize(
    ("mean", "var", "colour"), [(0.1, 1, ""), (1.0, 1, YELLOW), (9.0, 1, RED), (0, 4, YELLOW), (0, 16, RED)]
)
def test_a_figure_that_passes_the_bound_of_its_rule_is_coloured(stats, mean, var, colour):
    out, _ = stats(net(mean, var), torch.randn(64, 3, 9, 9), "--color", "always")
    (row,) = [line for line in out.splitlines() if line.startswith("0 ")]
    assert {RED, YELLOW} & {*re.findall(r"\x1b\[1;3[13]m", row)} == ({colour} if colour else set())


def test_nothing_is_coloured_where_colour_is_off(stats):
    assert "\x1b[" not in stats(net(9.0), torch.randn(8, 3, 6, 6), "--color", "never")[0]


def test_the_largest_difference_comes_first(run, tmp_path):
    old, new = nn.Sequential(*(nn.BatchNorm2d(2) for _ in range(3))), None
    torch.save(old.state_dict(), tmp_path / "old.pt")
    new = old.state_dict() | {
        "0.running_mean": torch.tensor([0.1, 0.0]),
        "1.running_var": torch.tensor([1.0, 0.01]),  # a hundredth is farther than twice
        "2.running_mean": torch.tensor([0.0, 0.9]),
        "2.running_var": torch.tensor([2.0, 1.0]),
        "0.num_batches_tracked": torch.tensor(7),
    }
    torch.save(new, tmp_path / "new.pt")
    code, out, _ = run("diff", "old.pt", "new.pt")
    assert code == 1
    rows = [line.split()[1:3] for line in out.splitlines() if line.startswith(("channels", "figure"))]
    assert rows == [
        ["1", "running_var"], ["2", "running_mean"], ["2", "running_var"], ["0", "running_mean"],
        ["0", "num_batches_tracked"],
    ]  # fmt: skip
    assert (
        "What differs: 3 of 3 layers: running_var in 2 (up to x 0.01), running_mean in 2 (up to 0.9 std), "
        "num_batches_tracked in 1" in out
    )
