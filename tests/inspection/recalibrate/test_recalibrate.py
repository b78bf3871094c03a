"""Statistics estimated again against a float64 reference, layer by layer; and the model as found but for them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from fingerprint import fingerprint
from torch import nn

import bninspect
from bninspect.errors import BNInspectError, ForwardError, InputError

pytestmark = pytest.mark.usefixtures("one_thread")
HOWS = ("fixed-point", "sequential", "train")


class Branches(nn.Module):
    """Two branches, a sum, dropout, and a layer that is never called."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.left = nn.Sequential(nn.Conv2d(6, 6, 1, bias=False), nn.BatchNorm2d(6))
        self.right = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5))
        self.unused = nn.BatchNorm2d(6)
        self.head = nn.Sequential(nn.Flatten(), nn.LazyLinear(5), nn.BatchNorm1d(5))
        self.head[1](torch.zeros(1, 6 * 36))

    def forward(self, x):
        x = self.stem(x)
        return self.head((self.left(x) + self.right(x)).relu())


@pytest.fixture
def net():
    model = Branches()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    return model


@pytest.fixture
def pieces():
    """Batches of different distributions, and a last one of a single image."""
    sizes, shifts = (16, 24, 8, 1), (0.0, 3.0, -2.0, 5.0)
    return [torch.randn(n, 3, 8, 8) * (1 + k) + shift for k, (n, shift) in enumerate(zip(sizes, shifts, strict=True))]


def reference(model, pieces, order):
    """Layer by layer in float64: the input of each, with everything before it already right."""
    twin, x = copy.deepcopy(model).double().eval(), torch.cat(pieces).double()
    for path in order:
        layer = twin.get_submodule(path)
        seen = []
        hook = layer.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        with torch.no_grad():
            twin(x)
        hook.remove()
        values = seen[0].transpose(0, 1).flatten(1)
        layer.running_mean.copy_(values.mean(1))
        layer.running_var.copy_(values.var(1, correction=0))
    return {path: (twin.get_submodule(path).running_mean, twin.get_submodule(path).running_var) for path in order}


ORDER = ("stem.1", "left.1", "right.1", "head.2")


@pytest.mark.parametrize("how", ["fixed-point", "sequential"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_float64_reference_is_found(net, pieces, how, dtype):
    expected = reference(net, pieces, ORDER)
    net = net.to(dtype)
    report = bninspect.recalibrate(net, [piece.to(dtype) for piece in pieces], how=how, passes=8)
    exact = how == "sequential"
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-5}
    assert report.converged
    assert {layer.path for layer in report.layers} == set(ORDER)
    for path, (mean, var) in expected.items():
        layer = net.get_submodule(path)
        std = var.sqrt()
        if exact:
            torch.testing.assert_close((layer.running_mean.double() - mean) / std, torch.zeros_like(mean), **tolerance)
            torch.testing.assert_close(layer.running_var.double(), var, **tolerance)
        else:  # to the limit that it stops at
            assert ((layer.running_mean.double() - mean).abs() / std).max() < 0.02
            assert (layer.running_var.double() / var - 1).abs().max() < 0.04


@pytest.mark.parametrize("how", ["fixed-point", "sequential"])
def test_one_piece_is_exact_in_one_pass(net, pieces, how):
    expected = reference(net, pieces, ORDER)
    report = bninspect.recalibrate(net, torch.cat(pieces), how=how)
    assert report.passes == 1
    for path, (mean, var) in expected.items():
        layer = net.get_submodule(path)
        torch.testing.assert_close(layer.running_mean.double(), mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(layer.running_var.double(), var, rtol=1e-5, atol=1e-6)


def test_a_real_net_layer_by_layer():
    """All twenty layers of a ResNet-18, in float64, over two pieces; the branches of a block wait for no other."""
    from torchvision.models import resnet18

    net = resnet18().double()
    pieces = [torch.randn(4, 3, 32, 32).double() * 3 + 1, torch.randn(2, 3, 32, 32).double()]
    order = [layer.path for layer in bninspect.stats(net, pieces[0]).layers]
    expected = reference(net, pieces, order)
    report = bninspect.recalibrate(net, pieces, how="sequential")
    assert len(order) == 20
    assert report.passes == 17
    assert report.converged
    for path, (mean, var) in expected.items():
        layer = net.get_submodule(path)
        torch.testing.assert_close(layer.running_mean, mean, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(layer.running_var, var, rtol=1e-6, atol=0)


def test_a_deep_net_far_off_is_not_thrown_about():
    """Setting all layers at once to what they measured makes |d| one of hundreds here."""
    from torchvision.models import resnet18

    net = resnet18()
    pieces = [torch.randn(16, 3, 32, 32) * 3 + torch.randn(16, 3, 1, 1) + 1 for _ in range(3)]
    report = bninspect.recalibrate(net, pieces, passes=2)
    residual = bninspect.stats(net, pieces)
    assert max(layer.d_max_before for layer in report.layers) > 2
    assert max(layer.d_max for layer in residual.layers) < 0.3
    assert max(layer.d_max for layer in report.layers) == pytest.approx(max(layer.d_max for layer in residual.layers))


def test_sequential_takes_a_pass_for_each_depth(net, pieces):
    assert bninspect.recalibrate(net, pieces, how="sequential").passes == 3  # stem, both branches together, head


def test_train_pools_what_batch_statistics_give(net, pieces):
    """The twin: each batch through the net in training mode without dropout, inputs kept, and pooled."""
    twin, kept = copy.deepcopy(net).train(), {path: [] for path in ORDER}
    twin.right[3].p = 0.0
    for path, seen in kept.items():
        twin.get_submodule(path).register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].double()))
    for piece in pieces[:-1]:
        twin(piece)
    bninspect.recalibrate(net, pieces[:-1], how="train")
    for path, seen in kept.items():
        values = torch.cat([x.transpose(0, 1).flatten(1) for x in seen], 1)
        layer = net.get_submodule(path)
        torch.testing.assert_close(layer.running_mean.double(), values.mean(1), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(layer.running_var.double(), values.var(1, correction=0), rtol=1e-5, atol=1e-6)


def test_train_refuses_a_batch_that_training_could_not_run_on(net, pieces):
    before = fingerprint(net)
    with pytest.raises(InputError, match=r"head\.2 got a single value per channel .*drop_last"):
        bninspect.recalibrate(net, pieces, how="train")
    assert fingerprint(net) == before


def test_the_report_tells_the_distances_before_and_after(net, pieces):
    old = {path: bninspect.stats(net, pieces).layers[k].channels for k, path in enumerate(ORDER)}
    report = bninspect.recalibrate(net, pieces, how="sequential")
    now = bninspect.stats(net, pieces)
    for layer, after in zip(report.layers, now.layers, strict=True):
        assert layer.path == after.path
        np.testing.assert_allclose(layer.channels.d_before, old[layer.path].d)
        np.testing.assert_allclose(layer.channels.r_before, old[layer.path].r)
        np.testing.assert_allclose(layer.channels.d, after.channels.d, atol=1e-6)
        assert layer.d_max == pytest.approx(np.abs(layer.channels.d).max())
        assert layer.d_max_before == pytest.approx(np.abs(layer.channels.d_before).max())
        assert (layer.r_min_before, layer.r_max_before) == (
            pytest.approx(layer.channels.r_before.min()), pytest.approx(layer.channels.r_before.max())
        )  # fmt: skip
        np.testing.assert_allclose(layer.channels.running_mean, net.get_submodule(layer.path).running_mean, rtol=1e-6)


@pytest.mark.parametrize("how", HOWS)
def test_nothing_but_the_statistics_changes(net, pieces, how):
    net.left[1].eval()  # frozen, as the rest is in training mode
    references = dict(net.named_buffers())
    before, rng = fingerprint(net), torch.get_rng_state()
    old = copy.deepcopy(net.state_dict())
    report = bninspect.recalibrate(net, pieces[:3], how=how)
    assert torch.equal(rng, torch.get_rng_state())
    changed = {key for key, value in net.state_dict().items() if not torch.equal(value, old[key])}
    touched = ("stem.1", "right.1", "head.2")
    names = ("running_mean", "running_var", "num_batches_tracked")
    assert changed == {f"{path}.{name}" for path in touched for name in names}
    assert all(references[name] is buffer for name, buffer in net.named_buffers())
    assert int(net.stem[1].num_batches_tracked) == 3
    assert {layer.path: layer.reason.partition(":")[0] for layer in report.left} == {
        "left.1": "frozen", "unused": "not executed",
    }  # fmt: skip
    for name, buffer in net.named_buffers():
        buffer.copy_(old[name])
    after = fingerprint(net)
    assert _without_versions(before) == _without_versions(after)


def _without_versions(found):
    """Buffers that were written to and put back count that."""
    modules = copy.deepcopy(found["modules"])
    for *_, parts in modules:
        parts["buffers"] = {name: value and value[:3] + value[4:] for name, value in parts["buffers"].items()}
    return modules, found["order"], found["process"]


def test_batches_that_were_counted_stay_counted(net, pieces):
    net.stem[1].num_batches_tracked.fill_(7)
    bninspect.recalibrate(net, pieces)
    assert (int(net.stem[1].num_batches_tracked), int(net.head[2].num_batches_tracked)) == (7, 4)


class Stop(BaseException):
    pass


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Stop])
@pytest.mark.parametrize("how", HOWS)
def test_an_error_at_any_step_leaves_everything(how, error):
    """From the k-th step of the data on, for every k that there is."""
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3), nn.BatchNorm1d(3))
    pieces = [torch.randn(4, 3) + k for k in range(2)]
    steps = {"at": 0, "fails": -1}

    class Loader:
        def __iter__(self):
            for piece in pieces:
                steps["at"] += 1
                if steps["at"] == steps["fails"]:
                    raise error
                yield piece

    bninspect.recalibrate(copy.deepcopy(net), Loader(), how=how)
    before, total = fingerprint(net), steps["at"]
    for steps["fails"] in range(1, total + 1):
        steps["at"] = 0
        with pytest.raises(error):
            bninspect.recalibrate(net, Loader(), how=how)
        assert fingerprint(net) == before
    assert total >= 6


def test_an_interrupt_between_two_copies_puts_the_first_back(net, pieces, monkeypatch):
    """Ctrl-C while the last buffer is written, and again while the first is put back."""
    from bninspect.inspection.recalibrate import buffers

    written, copied = [], buffers._copy

    def interrupted(changes):
        for change in changes:
            copied([change])
            written.append(change[0])
            if len(written) in (5, 6):
                raise KeyboardInterrupt

    old = copy.deepcopy(net.state_dict())
    monkeypatch.setattr(buffers, "_copy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bninspect.recalibrate(net, pieces)
    assert len(written) > 6
    assert all(torch.equal(value, old[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.full((4, 3, 8, 8), torch.nan), r"stem\.1 holds 864 NaN or infinite values"),
        ((torch.zeros(2, 3, 8, 8) for _ in range(2)), "generator, which can be gone through once"),
        ([], "empty"),
        (torch.zeros(1, 3, 8, 8), r"head\.2 saw 1 value per channel"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "holds integers"),
    ],
)
def test_data_that_no_statistics_can_be_made_of(net, batch, message):
    before = fingerprint(net)
    with pytest.raises(InputError, match=message):
        bninspect.recalibrate(net, batch)
    assert fingerprint(net) == before


def test_a_batch_that_does_not_fit_is_refused_with_the_layers_name(net):
    with pytest.raises(ForwardError, match=r"layer stem\.0"):
        bninspect.recalibrate(net, torch.zeros(4, 2, 8, 8))


def test_statistics_that_half_precision_cannot_hold(pieces):
    model = nn.BatchNorm2d(3).half().eval()
    x = torch.randn(8, 3, 4, 4).half() * 1000
    before = fingerprint(model)
    with pytest.raises(InputError, match=r"running_var of layer .* too large for float16"):
        bninspect.recalibrate(model, x)
    assert fingerprint(model) == before


def test_statistics_that_bfloat16_cannot_hold_closely_are_told():
    model = nn.BatchNorm1d(3).bfloat16().eval()
    x = torch.randn(64, 3).bfloat16() + 100
    report = bninspect.recalibrate(model, x)
    torch.testing.assert_close(model.running_mean, x.double().mean(0).bfloat16())
    assert "stored as bfloat16" in report.notes[-1]
    assert bninspect.recalibrate(nn.BatchNorm1d(3), x.float()).notes == ()


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Conv2d(3, 4, 1), "no BatchNorm layer"),
        (nn.BatchNorm2d(3, track_running_stats=False), "keeps no running statistics"),
        (nn.BatchNorm2d(3, momentum=0.0), "frozen: its momentum is 0"),
        (nn.Sequential(nn.BatchNorm2d(3).eval()), "frozen: in eval mode, while the model is in training mode"),
        (nn.LazyBatchNorm2d(), "lazy"),
    ],
)
def test_nothing_to_estimate(model, reason):
    with pytest.raises(BNInspectError, match=reason):
        bninspect.recalibrate(model, torch.randn(4, 3, 2, 2))


def test_a_frozen_class_is_left_and_named():
    from torchvision.ops import FrozenBatchNorm2d

    model = nn.Sequential(FrozenBatchNorm2d(3), nn.BatchNorm2d(3)).eval()
    report = bninspect.recalibrate(model, torch.randn(8, 3, 2, 2) + 5)
    assert [(layer.path, layer.reason) for layer in report.left] == [
        ("0", "frozen: its class keeps the statistics as they are")
    ]
    assert [layer.path for layer in report.layers] == ["1"]
    assert torch.equal(model[0].running_mean, torch.zeros(3))


def test_a_model_in_eval_mode_is_estimated_as_a_whole(net, pieces):
    assert len(bninspect.recalibrate(net.eval(), pieces).layers) == 4
    assert not net.training


@pytest.mark.parametrize("how", HOWS)
def test_a_layer_that_is_called_twice_is_pooled_and_named(how):
    layer = nn.BatchNorm2d(3)
    model = nn.Sequential(layer, nn.Conv2d(3, 3, 1), layer)
    x = torch.randn(32, 3, 4, 4) * 2 + 1
    report = bninspect.recalibrate(model, x, how=how)
    (found,) = report.layers
    assert (found.path, found.calls, found.count) == ("0", 2, 1024)
    assert any("called more than once" in note for note in report.notes)
    if how == "sequential":
        return
    seen = [x.double()]
    twin = copy.deepcopy(model).double().eval()
    seen.append(twin[1](twin[0](x.double())))
    if how == "fixed-point" and report.converged:
        mean = torch.cat(seen).mean((0, 2, 3))
        assert ((layer.running_mean.double() - mean).abs() / layer.running_var.double().sqrt()).max() < 0.02


def test_broken_statistics_are_mended(net, pieces):
    net.stem[1].running_var.fill_(-1)
    net.left[1].running_mean.fill_(torch.nan)
    report = bninspect.recalibrate(net, pieces)
    assert report.converged
    assert report.layers[1].nonfinite_before > 0
    assert all(buffer.isfinite().all() for buffer in net.buffers())


def test_statistics_that_are_right_are_left(net, pieces):
    bninspect.recalibrate(net, pieces, how="sequential")
    before = fingerprint(net)
    report = bninspect.recalibrate(net, pieces)
    assert (report.passes, report.converged) == (0, True)
    assert fingerprint(net) == before


def test_too_few_passes_are_told(net):
    pieces = [torch.randn(4, 3, 8, 8) * (k + 1) + k for k in range(6)]
    report = bninspect.recalibrate(net, pieces, passes=1)
    residual = bninspect.stats(net, pieces)
    assert max(layer.d_max for layer in report.layers) == pytest.approx(max(layer.d_max for layer in residual.layers))
    assert report.converged == (
        all(layer.d_max <= 0.01 for layer in residual.layers)
        and all(layer.r_min >= 0.99 and layer.r_max <= 1.01 for layer in residual.layers)
    )


def test_a_batch_of_less_than_one_pass_is_refused(net, pieces):
    with pytest.raises(InputError, match="passes must be at least 1"):
        bninspect.recalibrate(net, pieces, passes=0)
    with pytest.raises(InputError, match="how is one of"):
        bninspect.recalibrate(net, pieces, how="guess")
