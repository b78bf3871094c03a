"""``stats``: every figure beside its definition in float64, with and without a model, whole and in pieces."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from torch import nn

import bninspect
from bninspect.errors import BNInspectError, ForwardError, InputError


def reference(model, batch, mode="eval"):
    """Inputs of every BatchNorm layer, taken by hooks of the test's own on a model of its own."""
    inputs = {}
    handles = [
        module.register_forward_pre_hook(lambda _, args, path=path: inputs.setdefault(path, []).append(args[0].clone()))
        for path, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    model.train(mode == "train")
    with torch.no_grad():
        model(batch)
    for handle in handles:
        handle.remove()
    return inputs


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("batch_size", [None, 3])
def test_every_figure_of_resnet18(mode, batch_size):
    from torchvision.models import resnet18

    torch.manual_seed(1)
    model = resnet18(weights=None)
    batch = torch.randn(6, 3, 40, 40)
    for _ in range(3):
        model(torch.randn(6, 3, 32, 32))  # running statistics of their own
    if mode == "train" and batch_size:
        pieces = [reference(resnet18_like(model), piece, mode) for piece in batch.split(batch_size)]
        inputs = {path: [torch.cat([piece[path][0] for piece in pieces])] for path in pieces[0]}
    else:
        inputs = reference(resnet18_like(model), batch, mode)
    report = bninspect.stats(model, batch, mode=mode, batch_size=batch_size)
    assert [layer.path for layer in report.layers] == list(inputs)
    for layer in report.layers:
        check_layer(layer, inputs[layer.path][0], model.get_submodule(layer.path))


def resnet18_like(model):
    from copy import deepcopy

    return deepcopy(model)


def check_layer(layer, x, module):
    """Each field by its formula, one line each."""
    rows = x.double().transpose(0, 1).flatten(1)
    mean, var = rows.mean(1).numpy(), rows.var(1, correction=0).numpy()
    channels = layer.channels
    std = np.sqrt(var)
    assert layer.count == rows.shape[1]
    assert layer.num_images == x.shape[0]
    assert (np.abs(channels.mean - mean) <= 1e-6 * std).all()
    np.testing.assert_allclose(channels.var, var, rtol=1e-6)
    np.testing.assert_allclose(channels.std, std, rtol=1e-6)
    np.testing.assert_allclose(channels.var_unbiased, rows.var(1, correction=1).numpy(), rtol=1e-6)
    np.testing.assert_array_equal(channels.min, rows.amin(1).numpy())
    np.testing.assert_array_equal(channels.max, rows.amax(1).numpy())
    np.testing.assert_allclose(channels.zero_fraction, (rows == 0).double().mean(1).numpy(), rtol=1e-12)
    means = x.double().flatten(2).mean(2).numpy()
    between = means.var(0, ddof=1)
    np.testing.assert_allclose(channels.between_image_var, between, rtol=1e-3)
    running_mean, running_var = module.running_mean.double().numpy(), module.running_var.double().numpy()
    spread = np.sqrt(running_var + module.eps)
    np.testing.assert_allclose(channels.d, (mean - running_mean) / spread, atol=1e-6)
    np.testing.assert_allclose(channels.r, np.sqrt(var + module.eps) / spread, rtol=1e-6)
    np.testing.assert_allclose(channels.z, (mean - running_mean) / np.sqrt(between / len(x)), rtol=1e-3, atol=1e-4)
    for name in ("weight", "bias", "running_mean", "running_var"):
        np.testing.assert_array_equal(getattr(channels, name), getattr(module, name).detach().numpy())
    np.testing.assert_allclose(channels.scale, module.weight.detach().double().numpy() / spread, rtol=1e-12)
    assert layer.scale_max == channels.scale.max()
    assert layer.mean_min == channels.mean.min()
    assert layer.var_max == channels.var.max()
    assert layer.d_max == np.abs(channels.d).max()
    assert layer.d_median == np.median(np.abs(channels.d))
    assert (layer.r_min, layer.r_median, layer.r_max) == (channels.r.min(), np.median(channels.r), channels.r.max())
    assert layer.z_max == np.abs(channels.z).max()
    assert layer.num_batches_tracked == module.num_batches_tracked


def test_the_batch_of_the_note(note_batch):
    report = bninspect.stats(None, note_batch, values=True)
    (layer,) = report.layers
    assert (layer.kind, layer.num_features, layer.count) == ("BatchNorm2d", 3, 4)
    assert layer.channels.mean.tolist() == [1.75, 1.75, 1.75]
    assert layer.channels.var.tolist() == [0.1875, 0.6875, 0.1875]
    expected = [[[[-1.7320, 0.5773]], [[0.3015, -0.9045]], [[0.5773, 0.5773]]],
                [[[0.5773, 0.5773]], [[1.5075, -0.9045]], [[-1.7320, 0.5773]]]]  # fmt: skip
    np.testing.assert_array_equal(report.values.round(4), expected)
    torch.testing.assert_close(torch.from_numpy(report.values).float(), nn.BatchNorm2d(3)(note_batch).detach())


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 5), (6, 4, 5, 3), (6, 4, 2, 5, 3)], ids=str)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_values_are_those_of_torchs_own_layer(shape, mode):
    layer = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)](4)
    batch = torch.randn(shape)
    report = bninspect.stats(None, batch, mode=mode, values=True)
    assert report.layers[0].kind == type(layer).__name__
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(report.values).float(), layer.train(mode == "train")(batch))


def test_values_of_pieces_are_normalised_by_the_whole():
    batch = torch.randn(6, 4, 3, 3)
    whole = bninspect.stats(None, batch, values=True).values
    pieces = bninspect.stats(None, batch, values=True, batch_size=4).values
    np.testing.assert_allclose(pieces, whole, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_models_of_other_dtypes(dtype):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).to(dtype)
    batch = torch.randn(4, 3, 20, 20).to(dtype)
    (layer,) = bninspect.stats(model, batch).layers
    (x,) = reference(model, batch)["1"]
    assert layer.dtype == str(dtype).removeprefix("torch.")
    np.testing.assert_allclose(layer.channels.var, x.double().var((0, 2, 3), correction=0), rtol=1e-6)


def test_autocast_inputs_are_taken_as_they_come():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    with torch.autocast("cpu", torch.bfloat16):
        (layer,) = bninspect.stats(model, torch.randn(4, 3, 20, 20)).layers
    assert layer.dtype == "bfloat16"


def test_a_stream_is_pooled_exactly_and_may_be_uneven(resnet18):
    batch = torch.randn(7, 3, 48, 48)
    whole = bninspect.stats(resnet18, batch)
    for stream in (batch.split(2), list(batch.split([1, 5, 1])), (piece for piece in batch.split(3))):
        streamed = bninspect.stats(resnet18, stream)
        for a, b in zip(whole.layers, streamed.layers, strict=True):
            np.testing.assert_allclose(a.channels.var, b.channels.var, rtol=1e-4)  # convolutions differ by batch size
            assert (a.count, a.num_images) == (b.count, b.num_images)


def test_shared_layers_are_pooled_over_their_calls():
    norm = nn.BatchNorm2d(3)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = norm

        def forward(self, x):
            return self.norm(x) + self.norm(x + 10)

    batch = torch.randn(4, 3, 20, 20)
    report = bninspect.stats(Twice(), batch)
    (layer,) = report.layers
    both = torch.cat([batch, batch + 10]).double()
    np.testing.assert_allclose(layer.channels.var, both.var((0, 2, 3), correction=0), rtol=1e-6)
    assert (layer.calls, layer.num_images) == (2, 8)
    assert "more than once" in report.notes[0]


def test_layers_without_running_statistics_or_affine():
    model = nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3, track_running_stats=False))
    first, second = bninspect.stats(model, torch.randn(4, 3, 8, 8)).layers
    assert first.channels.weight is None
    assert first.channels.d is not None
    assert second.channels.d is second.channels.running_mean is second.z_max is None


def test_frozen_layers_are_measured():
    from torchvision.ops import FrozenBatchNorm2d

    (layer,) = bninspect.stats(nn.Sequential(FrozenBatchNorm2d(3, eps=0.0)), torch.randn(4, 3, 8, 8)).layers
    assert (layer.kind, layer.eps, layer.momentum) == ("FrozenBatchNorm2d", 0.0, None)
    assert layer.d_max is not None


def test_dead_channels():
    layer = nn.BatchNorm2d(4)
    with torch.no_grad():
        layer.weight[0] = 1e-6
    batch = torch.randn(4, 4, 8, 8)
    batch[:, 1] = 3.0
    batch[:, 2] *= 1e-2  # small, and alive: eps is 1e-5
    assert bninspect.stats(layer, batch).layers[0].dead == 2


def test_nan_and_infinity_are_counted_not_refused():
    batch = torch.randn(4, 3, 8, 8)
    batch[0, 0, 0, 0], batch[1, 2, 0, 0] = torch.nan, torch.inf
    layer = nn.BatchNorm2d(3)
    layer.running_var[1] = torch.nan
    (seen,) = bninspect.stats(layer, batch).layers
    assert (seen.nonfinite, seen.nonfinite_state) == (2, 1)
    assert seen.channels.nonfinite.tolist() == [1, 0, 1]
    assert np.isfinite(seen.channels.var).all()


def test_layers_are_chosen_by_glob(resnet18):
    report = bninspect.stats(resnet18, torch.randn(2, 3, 32, 32), layer="layer4.*.bn1")
    assert [layer.path for layer in report.layers] == ["layer4.0.bn1", "layer4.1.bn1"]
    assert report.never_called == ()


def test_layers_that_did_not_run_are_listed():
    from torchvision.models import googlenet

    model = googlenet(weights=None, init_weights=False)
    report = bninspect.stats(model, torch.randn(1, 3, 64, 64))
    assert [layer.path for layer in report.never_called] == ["aux1.conv.bn", "aux2.conv.bn"]


def test_several_inputs():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm1d(3)

        def forward(self, a, b):
            return self.bn(a + b)

    a, b = torch.randn(6, 3), torch.randn(6, 3)
    (layer,) = bninspect.stats(Sum(), [(a, b)], batch_size=4).layers
    np.testing.assert_allclose(layer.channels.mean, (a + b).double().mean(0), rtol=1e-6)


def test_the_shadow_is_gone_with_the_call(resnet18):
    """And does not wait for the collector, which is slow where torch is imported."""

    def modules():
        return sum(isinstance(one, nn.Module) for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = modules()
        bninspect.stats(resnet18, torch.randn(2, 3, 32, 32))
        bninspect.stats(resnet18, [torch.randn(2, 3, 32, 32)], forward=lambda model, batch: model(batch))
        assert modules() == before
    finally:
        gc.enable()


def test_extremes_can_be_left_out():
    (layer,) = bninspect.stats(nn.BatchNorm2d(3), torch.randn(2, 3, 8, 8), extremes=False).layers
    assert layer.channels.min is layer.channels.zero_fraction is layer.min is None


def test_functional_calls_are_reported():
    class Functional(nn.Module):
        def forward(self, x):
            return nn.functional.batch_norm(x, None, None, training=True)

    report = bninspect.stats(nn.Sequential(nn.BatchNorm2d(3), Functional()), torch.randn(2, 3, 8, 8), batch_size=1)
    assert [(call.path, call.calls) for call in report.functional_calls] == [("1", 1)]


def test_on_piece_sees_the_report_grow():
    seen = []
    bninspect.stats(
        nn.BatchNorm2d(3),
        torch.randn(5, 3, 8, 8),
        batch_size=2,
        on_piece=lambda images, report: seen.append((images, report().layers[0].count)),
    )
    assert seen == [(2, 128), (4, 256), (5, 320)]


def test_reports_cannot_be_changed():
    report = bninspect.stats(None, torch.randn(2, 3))
    with pytest.raises(AttributeError):
        report.layers = ()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8), r"integers \(torch.uint8\).*x.float\(\) / 255"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.complex64), "complex"),
        (torch.zeros(0, 3, 8, 8), "empty"),
        (torch.zeros(2, 0, 8, 8), "empty"),
        (torch.tensor(1.0), "empty"),
        ([], "held no piece"),
        (["text"], "held str"),
        ([()], "an empty tuple"),
    ],
    ids=["integers", "complex", "no images", "no channels", "scalar", "no pieces", "text", "empty tuple"],
)
def test_batches_that_no_layer_takes(batch, message):
    for model in (None, nn.BatchNorm2d(3)):
        with pytest.raises(InputError, match=message):
            bninspect.stats(model, batch)


def test_a_batch_of_six_dimensions_or_one():
    for shape in ((2, 3, 1, 1, 1, 1), (5,)):
        with pytest.raises(InputError, match="2 to 5 dimensions"):
            bninspect.stats(None, torch.zeros(shape))


def test_wrong_channels_name_the_layer_and_what_it_wanted(resnet18):
    with pytest.raises(ForwardError, match=r"on \[2, 4, 32, 32\] failed in layer conv1, Conv2d\(3, 64,.*given \[2, 4,"):
        bninspect.stats(resnet18, torch.randn(2, 4, 32, 32))
    with pytest.raises(ForwardError, match=r"BatchNorm2d\(5"):
        bninspect.stats(nn.BatchNorm2d(5), torch.randn(2, 3, 32, 32))


def test_one_value_per_channel_in_train_mode():
    with pytest.raises(ForwardError, match="more than 1 value per channel"):
        bninspect.stats(nn.BatchNorm1d(3), torch.randn(1, 3), mode="train")


def test_a_glob_that_matches_nothing_names_the_layers(resnet18):
    with pytest.raises(InputError, match=r"matches 'layer9\*'.*bn1, layer1.0.bn1"):
        bninspect.stats(resnet18, torch.randn(2, 3, 32, 32), layer="layer9*")


def test_devices_that_are_not_there():
    with pytest.raises(InputError, match="'gpu' is no device"):
        bninspect.stats(None, torch.randn(2, 3), device="gpu")
    missing = f"cuda:{torch.cuda.device_count() if torch.cuda.is_available() else 0}"
    with pytest.raises(InputError, match="CUDA devices: give --device cpu"):
        bninspect.stats(None, torch.randn(2, 3), device=missing)


def test_what_is_no_model_is_refused():
    with pytest.raises(BNInspectError, match="a str was given"):
        bninspect.stats("resnet18", torch.randn(2, 3))


@pytest.mark.parametrize("value", [0, -1])
def test_batch_sizes_are_positive(value):
    with pytest.raises(InputError, match="at least 1"):
        bninspect.stats(None, torch.randn(2, 3), batch_size=value)


@pytest.mark.parametrize("sizes", [(4, 4, 1), (1, 4), (1, 1, 1)], ids=str)
def test_pieces_of_one_row_are_measured_without_a_model(sizes):
    x = torch.randn(sum(sizes), 5, dtype=torch.float64)
    report = bninspect.stats(None, list(x.split(sizes)), values=True)
    (layer,) = report.layers
    assert (report.tool.mode, layer.count) == ("train", sum(sizes))
    np.testing.assert_allclose(layer.channels.var, x.var(0, correction=0), rtol=1e-12)
    expected = nn.BatchNorm1d(5, dtype=torch.float64)(x).detach()
    np.testing.assert_allclose(report.values, expected, atol=1e-12)


def test_one_row_in_all_has_figures_and_no_values():
    (layer,) = bninspect.stats(None, torch.tensor([[1.0, 2.0]])).layers
    assert layer.channels.mean.tolist() == [1, 2]
    assert layer.channels.var.tolist() == [0, 0]
    assert np.isnan(layer.channels.var_unbiased).all()
    with pytest.raises(InputError, match="one value per channel cannot be normalised"):
        bninspect.stats(None, torch.tensor([[1.0, 2.0]]), values=True)
