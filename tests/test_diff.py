"""Comparison: every field in its unit, layers matched by name, shape and order, and the promises of the formats."""

from __future__ import annotations

import copy
import csv
import io
import json
import subprocess
import sys
from xml.etree import ElementTree

import jsonschema
import msgspec
import numpy as np
import pytest
import torch
from torch import nn

import bninspect
from bninspect import codec, snapshot
from bninspect.cli import run
from bninspect.errors import InputError, SourceError
from bninspect.inspection._stored import stats as of_layers
from bninspect.layers import BatchNormLayer
from bninspect.report import Source, Tolerance, Tool

replace = msgspec.structs.replace
LAYERS = "nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, eps=0.001), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)"
FORMATS = ("table", "json", "markdown", "csv", "github", "junit")


def network(seed=0, eps=1e-3):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, eps=eps), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)
    )
    for layer in (model[1], model[4]):
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
        nn.init.uniform_(layer.weight, 0.5, 1.5)
        nn.init.normal_(layer.bias)
    return model


def batch():
    return torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def report():
    return bninspect.stats(network(), batch())


def with_channel(report, name, channel, value, layer=0):
    """The report with one number of one vector of one layer set."""
    old = report.layers[layer]
    vector = getattr(old.channels, name).copy()
    vector[channel] = value
    new = replace(old, channels=replace(old.channels, **{name: vector}))
    return replace(report, layers=tuple(new if each is old else each for each in report.layers))


def fields(found):
    return [(each.what, each.path, each.field) for each in found.differences]


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


def without_channels(report):
    return replace(report, layers=tuple(replace(layer, channels=None) for layer in report.layers))


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


def layers_of(*names_and_sizes):
    return [
        BatchNormLayer(
            path=name, kind="BatchNorm2d", num_features=size, running_mean=np.zeros(size), running_var=np.ones(size)
        )
        for name, size in names_and_sizes
    ]


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
