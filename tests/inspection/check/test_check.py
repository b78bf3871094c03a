"""check as a whole: the untouched model, selection, files without torch, its cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from fingerprint import fingerprint
from healthy import calibrate, smooth, train_a_little
from torch import nn

import bninspect
from bninspect.errors import ForwardError, InputError
from bninspect.inspection.check import chosen
from bninspect.layers import BatchNormLayer
from bninspect.observe.layers import batchnorms, describe
from bninspect.report import Source


def small():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Conv2d(8, 8, 3),
        nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def ill():
    """A model that needs every pass: its first layer does not fit, and its predictions change with the mode."""
    model = calibrate(train_a_little(small()), smooth(64, 3, 16, 16, seed=1))
    nn.init.kaiming_normal_(model[4].weight)
    return model.train()


def test_the_model_is_left_as_it_was_found():
    model, x = ill(), 255 * smooth(64, 3, 16, 16)
    model[1].eval()
    model[4].weight.requires_grad_(False)
    model(x).sum().backward()
    before = fingerprint(model)
    report = bninspect.check(model, x, batch_size=8)
    assert {"BN401", "BN402", "BN302"} <= {finding.code for finding in report.findings}
    assert fingerprint(model) == before
    bninspect.check(model, list(x.split(16)))
    bninspect.check(model, input_size=(3, 16, 16))
    assert fingerprint(model) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("forwards", [1, 2, 3])
def test_the_model_is_left_as_it_was_found_after_a_failure(error, forwards):
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = ill()

        def forward(self, x):
            if calls is not None and not x.is_meta:
                calls.append(1)
                if len(calls) == forwards:
                    raise error("here")
            return self.inner(x)

    calls = None
    model, x = Failing(), smooth(64, 3, 16, 16)
    before = fingerprint(model)
    calls = []
    with pytest.raises((ForwardError, KeyboardInterrupt)):
        bninspect.check(model, x)
    assert len(calls) == forwards
    assert fingerprint(model) == before


def test_hooks_of_the_user_are_left_and_none_are_added():
    model = ill()
    seen = []
    model[1].register_forward_hook(lambda *_: seen.append(1))
    before = fingerprint(model)
    bninspect.check(model, smooth(32, 3, 16, 16))
    assert fingerprint(model) == before
    assert seen


def test_forwards_are_few(monkeypatch):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = ill()

        def forward(self, x):
            images.append(0 if x.is_meta else len(x))
            return self.inner(x)

    images = []
    report = bninspect.check(Counting(), smooth(64, 3, 16, 16))
    assert any(finding.code in ("BN401", "BN404") for finding in report.findings)
    assert sum(images) <= 3 * 64


def test_findings_are_sorted_and_grouped():
    model = ill()
    model[5].running_var[2] = -1
    model[1].momentum = model[5].momentum = 0.99
    report = bninspect.check(model)
    severities = [finding.severity for finding in report.findings]
    assert severities == sorted(severities, key=["error", "warning", "info"].index)
    (momentum,) = [finding for finding in report.findings if finding.code == "BN205"]
    assert [place.path for place in momentum.layers] == ["1", "5"]
    assert momentum.path == "1"
    assert momentum.fix.startswith("Set momentum")
    assert len({(finding.code, finding.severity, finding.message) for finding in report.findings}) == len(severities)


def test_every_rule_answers_or_says_why_not():
    report = bninspect.check(small())
    assert len(report.rules) == 47
    silent = [one.code for one in report.silent]
    assert len(silent) == len(set(silent))
    assert {"BN401", "BN405"} <= set(silent)
    assert all(one.reason and one.name for one in report.silent)


def test_a_model_without_batchnorm_has_nothing_to_check():
    report = bninspect.check(nn.Linear(3, 4), torch.randn(8, 3))
    assert (report.num_layers, report.findings) == (0, ())
    assert {silent.reason for silent in report.silent} == {"there is no BatchNorm layer"}


def test_rules_are_chosen_by_the_beginning_of_their_code():
    assert [rule.code for rule in chosen(["BN203"])] == ["BN203"]
    assert {rule.code[:3] for rule in chosen(["BN2", "bn3"])} == {"BN2", "BN3"}
    assert "BN204" not in {rule.code for rule in chosen(["BN2"], ["BN204"])}
    for prefix in ("BN9", "", "X"):
        with pytest.raises(InputError, match="no rule has a code that begins with"):
            chosen([prefix])


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_size_is_positive(size):
    with pytest.raises(InputError, match="at least 1"):
        bninspect.check(small(), batch_size=size)


def test_a_batch_that_does_not_fit_is_refused_and_an_empty_one():
    with pytest.raises(ForwardError, match="layer 0"):
        bninspect.check(ill(), torch.randn(4, 5, 16, 16))
    with pytest.raises(InputError, match="empty"):
        bninspect.check(ill(), [])
    with pytest.raises(InputError, match="held str"):
        bninspect.check(ill(), ["x"])


def test_stored_layers_are_checked_as_the_module_is():
    model = ill()
    model[1].running_var[0] = -1
    layers = [describe(path, module) for path, module in batchnorms(model).items()]
    stored = bninspect.check(layers)
    live = bninspect.check(model)
    assert stored.source.evidence == "tensors"
    codes = [finding.code for finding in live.findings if finding.code < "BN3"]
    assert [finding.code for finding in stored.findings] == codes
    assert any(silent.code == "BN301" and "stored values" in silent.reason for silent in stored.silent)


def test_unknown_fields_silence_the_rules_that_need_them():
    layer = BatchNormLayer(path="a", kind="BatchNorm", num_features=2, running_var=np.array([1.0, 2.0]))
    report = bninspect.check([layer])
    assert not report.findings
    reasons = {silent.code: silent.reason for silent in report.silent}
    assert reasons["BN205"] == "not there, or not known, in any layer: momentum"
    assert "BN102" not in reasons


def test_layers_that_a_rule_passed_over_are_named():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm2d(3))
    model[2].momentum = None
    train_a_little(model)
    silent = {one.code: one for one in bninspect.check(model, input_size=(3, 8, 8)).silent}
    assert silent["BN102"].layers == ("1",)
    assert silent["BN102"].reason.startswith("not there, or not known: running_mean, running_var")
    assert silent["BN205"].layers == ("2",)
    assert silent["BN205"].reason == "not there, or not known: momentum"
    assert silent["BN401"].layers == ()
    assert "BN207" not in silent


def test_layers_whose_vectors_do_not_fit_are_named():
    one = BatchNormLayer(path="a", kind="BatchNorm", num_features=2, running_var=np.ones(2, "f4"))
    odd = msgspec.structs.replace(one, path="b", num_features=3)
    none = msgspec.structs.replace(one, path="c", running_var=None)
    silent = [item for item in bninspect.check([one, odd, none]).silent if item.code == "BN102"]
    assert [item.layers for item in silent] == [("b",), ("c",)]
    assert silent[0].reason == "the vectors do not fit the number of channels"
    assert silent[1].reason.startswith("not there, or not known: eps, momentum")


def test_stored_layers_are_checked_without_torch():
    code = """
import sys, numpy as np, bninspect
from bninspect.layers import BatchNormLayer
layer = BatchNormLayer(path="bn", kind="BatchNorm2d", num_features=2, running_var=np.array([1.0, -1.0]))
report = bninspect.check([layer])
assert [finding.code for finding in report.findings] == ["BN102"]
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_report_is_plain_data():
    report = bninspect.check(ill(), 255 * smooth(32, 3, 16, 16), source=Source(model="m", batch="b"))
    written = msgspec.json.decode(msgspec.json.encode(report))
    assert written["schema"] == "bninspect.check"
    assert written["source"]["batch_shape"] == [32, 3, 16, 16]
    assert len(written["findings"]) == len(report.findings) > 2
    assert msgspec.json.decode(msgspec.json.encode(report), type=type(report)) == report


def test_a_model_of_several_inputs_and_a_stream_of_batches():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm1d(4)

        def forward(self, a, b):
            return self.bn(a + b)

    model = Two()
    model.bn.running_mean.fill_(9)
    pairs = [(torch.randn(16, 4), torch.randn(16, 4)) for _ in range(4)]
    report = bninspect.check(model, pairs, select=["BN401", "BN404"])
    assert [finding.code for finding in report.findings] == ["BN401"]
    assert report.num_images == 64


def test_a_healthy_state_of_many_layers_has_no_finding():
    layers = [
        BatchNormLayer(
            path=f"layer{index}", kind="BatchNorm2d", num_features=512, eps=1e-5, momentum=0.1,
            weight=np.full(512, 0.5), bias=np.zeros(512), running_mean=np.ones(512), running_var=np.full(512, 2.0),
            num_batches_tracked=9999,
        )
        for index in range(53)
    ]  # fmt: skip
    assert not bninspect.check(layers).findings
