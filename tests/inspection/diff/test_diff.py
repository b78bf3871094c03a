"""Comparison: every field in its unit, and layers matched by name, shape and order."""

from __future__ import annotations

import copy
import json

import msgspec
import numpy as np
import pytest
import torch
from compared import batch, fields, layers_of, network, with_channel, without_channels

import bninspect
from bninspect import codec
from bninspect.errors import InputError
from bninspect.inspection.stats.stored import stored_stats as of_layers
from bninspect.layers import BatchNormLayer
from bninspect.render import table
from bninspect.report import Source, Tolerance, Tool

replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def report():
    return bninspect.stats(network(), batch())


# --- figures in their units


def test_a_report_equals_itself_and_its_copy(report):
    again = bninspect.stats(network(), batch())
    assert bninspect.diff(report, again, tolerance=(0, 0)).equal
    assert bninspect.diff(report, again).num_layers == 2


def unit_of(report, name, channel):
    """How much a field may move by for a tolerance of 1, worked out by hand."""
    layer = report.layers[0]
    vectors = layer.channels
    std = float(np.sqrt(max(vectors.running_var[channel], vectors.var[channel]) + layer.eps))
    rms = float(np.sqrt(np.mean(vectors.weight.astype(np.float64) ** 2)))
    return {
        "mean": std,
        "running_mean": std,
        "min": 20 * std,
        "max": 20 * std,
        "weight": rms,
        "bias": rms,
        "var": vectors.var[channel] + layer.eps,
        "running_var": vectors.running_var[channel] + layer.eps,
        "between_image_var": std**2,
        "zero_fraction": 1.0,
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        "mean",
        "running_mean",
        "min",
        "max",
        "weight",
        "bias",
        "var",
        "running_var",
        "between_image_var",
        "zero_fraction",
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_channel_moves_at_its_tolerance_and_not_before(report, name, sign):
    limit = 1e-2 if "var" in name else 1e-3
    old = float(getattr(report.layers[0].channels, name)[3])
    step = sign * limit * unit_of(report, name, 3)
    if name in {"var", "running_var"} and sign < 0:
        step /= 1 + limit  # a ratio: as far down as up
    assert bninspect.diff(report, with_channel(report, name, 3, old + 0.99 * step)).equal
    found = bninspect.diff(report, with_channel(report, name, 3, old + 1.01 * step))
    assert fields(found) == [("channels", "1", name)]
    (only,) = found.differences
    assert (only.num_channels, only.num_features, only.channel) == (1, 6, 3)
    assert only.a == pytest.approx(old)
    assert only.b == pytest.approx(old + 1.01 * step, rel=1e-6)


def test_distances_are_those_of_the_formulas(report):
    layer = report.layers[0]
    std = np.sqrt(max(layer.channels.running_var[2], layer.channels.var[2]) + layer.eps)
    moved = with_channel(report, "mean", 2, layer.channels.mean[2] + 0.7 * std)
    (found,) = bninspect.diff(report, moved).differences
    assert (found.unit, found.distance) == ("std", pytest.approx(0.7))
    moved = with_channel(report, "running_var", 1, 3 * (layer.channels.running_var[1] + layer.eps) - layer.eps)
    (found,) = bninspect.diff(report, moved).differences
    assert (found.unit, found.distance) == ("ratio", pytest.approx(3, rel=1e-5))


def test_the_worst_channel_is_named_for_shrunk_variances_too(report):
    vectors = report.layers[0].channels
    moved = with_channel(report, "running_var", 0, vectors.running_var[0] * 1.5)
    moved = with_channel(moved, "running_var", 5, vectors.running_var[5] / 4)
    (found,) = bninspect.diff(report, moved).differences
    assert (found.channel, found.num_channels) == (5, 2)
    assert found.distance < 0.3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["mean", "running_var", "weight", "running_mean"])
def test_nan_equals_nan_and_nothing_else(report, name, value):
    broken = with_channel(report, name, 1, value)
    assert bninspect.diff(broken, broken).equal
    for a, b in ((report, broken), (broken, report)):
        found = bninspect.diff(a, b, tolerance="loose")
        assert ("channels", "1", name) in fields(found)
        assert json.loads(codec.encode(found))["differences"][0]["distance"] is None


def test_a_dead_channels_tiny_variance_is_no_difference(report):
    a = with_channel(with_channel(report, "var", 0, 1e-30), "running_var", 0, 1e-30)
    b = with_channel(with_channel(report, "var", 0, 1e-12), "running_var", 0, 1e-12)
    assert bninspect.diff(a, b).equal


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"eps": 1e-5}, "eps"),
        ({"momentum": None}, "momentum"),
        ({"training": False}, "training"),
        ({"kind": "SyncBatchNorm"}, "kind"),
        ({"num_batches_tracked": 7}, "num_batches_tracked"),
        ({"count": 1}, "count"),
        ({"dead": 1}, "dead"),
        ({"nonfinite": 1}, "nonfinite"),
    ],
)
def test_settings_and_counts_are_exact(report, changes, field):
    changed = replace(report, layers=(replace(report.layers[0], **changes), report.layers[1]))
    found = bninspect.diff(report, changed, tolerance="loose")
    assert [each.field for each in found.differences] == [field]


def test_ranges_stand_in_for_vectors(report):
    plain = without_channels(report)
    shifted = network()
    with torch.no_grad():
        shifted[0].bias[2] += 5
    new = bninspect.stats(shifted, batch())
    found = bninspect.diff(plain, new)
    assert {"mean_max", "d_max"} <= {each.field for each in found.differences if each.path == "1"}
    assert all(each.what == "figure" for each in found.differences)
    assert any("holds no channel vectors" in note for note in found.notes)
    tiny = replace(plain, layers=(replace(plain.layers[0], mean_max=plain.layers[0].mean_max + 1e-6), plain.layers[1]))
    assert bninspect.diff(plain, tiny).equal


@pytest.mark.parametrize("given", ["strict", "default", "loose", "1e-3,1e-2", (0.0, 0.0), Tolerance(mean=1, var=1)])
def test_tolerances_are_read(report, given):
    assert bninspect.diff(report, report, tolerance=given).equal


def test_tolerances_are_ordered(report):
    std = unit_of(report, "mean", 0)
    answers = []
    for shift in (1e-6, 1e-4, 1e-2, 1):
        moved = with_channel(report, "mean", 0, report.layers[0].channels.mean[0] + shift * std)
        answers.append([bninspect.diff(report, moved, tolerance=name).equal for name in ("strict", "default", "loose")])
    assert answers == [[True] * 3, [False, True, True], [False, False, True], [False] * 3]


@pytest.mark.parametrize("given", ["tight", "1", "1,2,3", "-1,1", "nan,nan", "inf,1", (1,), 3, None])
def test_what_is_no_tolerance_is_refused(report, given):
    with pytest.raises(InputError, match="is no tolerance"):
        bninspect.diff(report, report, tolerance=given)


# --- layers


def test_added_and_removed():
    a = layers_of(("a", 4), ("b", 8))
    b = layers_of(("a", 4), ("c", 16))
    found = bninspect.diff(a, b)
    assert fields(found) == [("removed", "b", None), ("added", "c", None)]
    assert (found.num_layers, found.equal) == (1, False)


def test_a_prefix_renames_every_layer():
    names = [("a", 4), ("b", 4), ("c", 8)]
    found = bninspect.diff(layers_of(*names), layers_of(*((f"module.{name}", size) for name, size in names)))
    assert [(each.what, each.a, each.b) for each in found.differences] == [
        ("renamed", name, f"module.{name}") for name, _ in names
    ]


def test_renamed_layers_are_matched_in_order_and_by_shape():
    a = layers_of(("stem", 8), ("x1", 16), ("x2", 32), ("x3", 16))
    b = layers_of(("stem", 8), ("y1", 16), ("y2", 32), ("new", 64), ("y3", 16))
    found = bninspect.diff(a, b)
    assert [(each.a, each.b) for each in found.differences if each.what == "renamed"] == [
        ("x1", "y1"), ("x2", "y2"), ("x3", "y3"),
    ]  # fmt: skip
    assert [each.path for each in found.differences if each.what == "added"] == ["new"]


def test_another_order_is_told():
    found = bninspect.diff(layers_of(("a", 4), ("b", 4)), layers_of(("b", 4), ("a", 4)))
    assert fields(found) == [("setting", "", "order of the layers")]


def test_another_size_is_a_setting():
    found = bninspect.diff(layers_of(("a", 4)), layers_of(("a", 5)))
    assert fields(found) == [("setting", "a", "num_features")]


def test_a_summary_shows_structure_alone():
    a, b = (bninspect.summary(network(eps=eps), (3, 12, 12)) for eps in (1e-3, 1e-5))
    assert bninspect.diff(a, bninspect.summary(network(seed=5), (3, 12, 12))).equal
    assert fields(bninspect.diff(a, b)) == [("setting", "1", "eps")]
    wider = bninspect.summary(network(), (3, 14, 12))
    assert {each.field for each in bninspect.diff(a, wider).differences} == {
        "input_shape",
        "output_shape",
        "input_shapes",
    }
    frozen = network()
    frozen[1].weight.requires_grad_(False)
    found = bninspect.diff(a, bninspect.summary(frozen, (3, 12, 12)))
    assert {"trainable", "totals.num_trainable_parameters"} <= {each.field for each in found.differences}


class Place(msgspec.Struct, frozen=True):
    path: str
    channels: tuple[int, ...] | None = None


class Finding(msgspec.Struct, frozen=True):
    code: str
    severity: str
    message: str
    layers: tuple[Place, ...]


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """A report that has entries with codes, and no layers of its own."""

    schema: str = "bninspect.findings"
    schema_version: int = 1
    tool: Tool = Tool(bninspect="0", python="3")
    notes: tuple[str, ...] = ()
    source: Source = Source()
    num_layers: int = 2
    findings: tuple[Finding, ...] = ()


def finding(code, *paths, severity="warning", message="d is 0.71"):
    return Finding(code, severity, message, tuple(Place(path, (1,)) for path in paths))


def test_entries_of_any_report_are_matched_by_code_and_layer():
    a = Findings(findings=(finding("BN101", "a", "b"), finding("BN107", "c")))
    b = Findings(findings=(finding("BN101", "b", "c", severity="error"), finding("BN401", "a", "c")))
    found = bninspect.diff(a, b)
    assert sorted(fields(found)) == [
        ("added", "a", "findings.BN401"),
        ("added", "c", "findings.BN101"),
        ("added", "c", "findings.BN401"),
        ("removed", "a", "findings.BN101"),
        ("removed", "c", "findings.BN107"),
        ("setting", "", "findings.BN101.severity"),
    ]
    assert (found.num_layers, found.notes) == (2, ())
    reworded = Findings(findings=(finding("BN101", "a", "b", message="d is 0.72"), finding("BN107", "c")))
    assert bninspect.diff(a, reworded).equal


# --- ranks, copies, and what a file does not know


def test_statistics_alone_that_differ_are_named():
    """Two ranks after the same steps: parameters to the bit, buffers each of its own data."""
    rank0, rank1 = network(), network()
    rank1[4].running_mean += 0.5
    found = bninspect.diff(rank0, rank1)
    assert found.statistics_only == ("4",)
    assert fields(found) == [("channels", "4", "running_mean")]
    with torch.no_grad():
        rank1[4].weight[0] += 1e-6
    assert bninspect.diff(rank0, rank1).statistics_only == ()
    assert bninspect.diff(rank0, network()).statistics_only == ()


def shown(report):
    return table.render(report, color=False, width=200)


def test_frozen_layers_that_kept_updating_are_told_from_ranks_and_copies():
    """Fine-tuning with gamma and beta frozen, in train mode: each forward moves the statistics."""
    before, rank = network(), network()
    for model in (before, rank):
        model[4].num_batches_tracked.fill_(100)
    after = copy.deepcopy(before)
    after[4].requires_grad_(False)
    with torch.no_grad():
        for _ in range(20):
            after[4].train()(3 * torch.randn(8, after[4].num_features, 5, 5))
    found = bninspect.diff(before, after)
    assert (found.statistics_only, found.kept_updating) == (("4",), ("4",))
    assert "were frozen, and the statistics went on" in shown(found)
    assert "ranks" not in shown(found)
    rank[4].running_mean += 0.5  # another rank, or a copy: as many batches
    found = bninspect.diff(before, rank)
    assert (found.statistics_only, found.kept_updating) == (("4",), ())
    assert "ranks" in shown(found)
    before[4].num_batches_tracked.zero_()  # a file without counts
    assert bninspect.diff(before, after).kept_updating == ()


def test_models_are_left_as_they_were():
    model = network().train()
    before = copy.deepcopy(model.state_dict())
    bninspect.diff(model, network(seed=3))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert model.training


def test_what_a_file_does_not_hold_is_no_difference():
    model = network(eps=0.5)
    bare = [
        BatchNormLayer(
            path=path,
            kind="BatchNorm",
            num_features=layer.num_features,
            weight=layer.weight.detach().numpy(),
            bias=layer.bias.detach().numpy(),
            running_mean=layer.running_mean.numpy(),
            running_var=layer.running_var.numpy(),
        )
        for path, layer in zip("14", (model[1], model[4]), strict=True)
    ]
    stored = of_layers(bare, Source(model="best.pt", evidence="tensors"))
    assert bninspect.diff(model, stored).equal
    assert bninspect.diff(stored, model).equal
    assert fields(bninspect.diff(stored, network(seed=1)))  # and values still count
    without = of_layers([replace(bare[0], weight=None), bare[1]], stored.source)
    assert fields(bninspect.diff(stored, without))[-1] == ("setting", "1", "weight")


def test_a_model_is_compared_with_statistics_of_a_batch(report):
    assert bninspect.diff(report, network()).equal
    found = bninspect.diff(report, network(seed=2))
    assert {each.field for each in found.differences} <= {"weight", "bias", "running_mean", "running_var"}
    assert not found.equal


@pytest.mark.parametrize("given", [3, "text", None, [1, 2], object()])
def test_what_has_no_layers_is_refused(report, given):
    with pytest.raises(InputError, match="was expected, not"):
        bninspect.diff(report, given)
