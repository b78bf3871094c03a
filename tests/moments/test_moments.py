"""The second promise: every figure agrees with the definition in float64, whatever the values, layout and split."""

from __future__ import annotations

import importlib.util
import math
from fractions import Fraction
from functools import reduce

import numpy as np
import pytest
import torch

from bninspect import moments
from bninspect.moments import cpu, queued, triton
from bninspect.moments.way import Way

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
SHAPES = [
    (64, 5),
    (3, 4, 50),
    (4, 3, 9, 11),
    (2, 3, 40, 41),
    (2, 2, 4, 9, 10),
    (1, 2, 1021),
    (1, 40, 14, 14),
    (2, 2, 130, 130),
]
PILE = [(2, 3), (2, 5), (2, 2), (2, 4), (3, 6), (2, 1)]  # images and channels of layers side by side
LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def twin(x):
    """Mean and biased variance by the definition: two passes over each channel, in float64 around its first value."""
    rows = x.double().transpose(0, 1).flatten(1)
    first = rows[:, :1]
    shifted = rows - first
    mean = shifted.mean(1, keepdim=True)
    return (mean + first).squeeze(1).numpy(), (shifted - mean).square().mean(1).numpy()


def assert_exact(found, x):
    mean, var = twin(x)
    moving = var > 0
    np.testing.assert_allclose((found.M2 / found.count)[moving], var[moving], rtol=1e-6)
    assert (found.M2[~moving] == 0).all()
    assert (np.abs(found.mean - mean)[moving] <= 1e-6 * np.sqrt(var[moving])).all()
    np.testing.assert_allclose(found.mean[~moving], mean[~moving], rtol=1e-15)
    rows = x.double().transpose(0, 1).flatten(1).numpy()
    np.testing.assert_array_equal(found.min, rows.min(1))
    np.testing.assert_array_equal(found.max, rows.max(1))
    np.testing.assert_array_equal(found.zeros, (rows == 0).sum(1))
    assert (found.count == rows.shape[1]).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("offset", "std"), [(0, 1), (1, 1), (-3, 1), (30, 1), (1e3, 1), (1e4, 1e-2), (1e8, 10), (0, 1e-20), (0, 1e19)]
)
def test_measure_agrees_with_the_definition(shape, dtype, offset, std):
    x = torch.randn(shape, dtype=torch.float64) * std + offset
    x.flatten()[:3] = 0
    if dtype == torch.float16:
        x = x.clamp(-60000, 60000)
    x = x.to(dtype)
    assert_exact(cpu.measure(x), x)
    if len(shape) in LAYOUTS:
        other = x.contiguous(memory_format=LAYOUTS[len(shape)])
        assert_exact(cpu.measure(other), x)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_quantised_values_err_in_one_direction_and_are_still_exact(layout):
    """Images of 256 levels, and channels of two: float32 sums of equal values do not average their errors out."""
    images = torch.randint(0, 256, (2, 3, 300, 300)).float() / 255
    normalised = (images - 0.485) / 0.229
    two = torch.where(torch.rand(2, 3, 300, 300) < 0.5, 0.3, 1.7)
    steps = (torch.randn(2, 3, 300, 300) + 30).bfloat16().float()
    for x in (images, normalised, two, steps):
        assert_exact(cpu.measure(x.contiguous(memory_format=layout)), x)


@pytest.mark.parametrize("shape", [(3, 41, 100, 100), (2, 3, 700, 600)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_many_blocks_are_put_together_in_their_order(layout, shape):
    """More values than a block holds; every image and every channel has a mean and extremes of its own."""
    images, channels = shape[:2]
    offset = torch.arange(images * channels).view(images, channels, 1, 1) / (images * channels)
    x = torch.randn(shape) + offset
    assert x.numel() > 1 << 20
    found = cpu.measure(x.contiguous(memory_format=layout))
    assert_exact(found, x)
    means = x.double().mean((2, 3)).numpy()
    np.testing.assert_allclose(found.image_M2, np.square(means - means.mean(0)).sum(0), rtol=1e-5)


def test_torch_itself_is_wrong_where_we_are_not():
    """The layer's own statistics on channels_last: the reason why they are not taken for the truth."""
    x = (torch.randn(32, 4, 56, 56) + 1e4).contiguous(memory_format=torch.channels_last)
    layer = torch.nn.BatchNorm2d(4, momentum=1.0).train()
    layer(x)
    _, var = twin(x)
    count = x.numel() // 4
    off = np.abs(layer.running_var.numpy() * (count - 1) / count / var - 1).max()
    assert off > 1e-3
    assert_exact(cpu.measure(x), x)


@pytest.mark.parametrize("value", [0.1, 0.0, -7.3, 1e8, 1e-30, 123456.789])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constants_have_no_variance_at_all(value, dtype):
    x = torch.full((3, 4, 37, 41), value, dtype=dtype)
    found = cpu.measure(x)
    assert (found.M2 == 0).all()
    assert (found.image_M2 == 0).all()
    assert (found.mean == x.flatten()[0].double().item()).all()
    assert (cpu.measure(x, extremes=False).M2 == 0).all()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_non_finite_values_are_counted_and_left_out(layout):
    clean = torch.randn(4, 3, 40, 40)
    x = clean.clone()
    x[0, 0, 0, 0], x[1, 0, 3, 3], x[2, 1, 5, 5] = torch.nan, torch.inf, -torch.inf
    x[:, 2] = torch.nan
    found = cpu.measure(x.contiguous(memory_format=layout))
    assert found.nonfinite.tolist() == [2, 1, 6400]
    for channel in (0, 1):
        rows = x[:, channel].flatten().double()
        rows = rows[rows.isfinite()]
        assert found.count[channel] == len(rows)
        assert math.isclose(found.mean[channel], rows.mean(), rel_tol=1e-9)
        assert math.isclose(found.M2[channel] / found.count[channel], rows.var(correction=0), rel_tol=1e-6)
        assert found.max[channel] == rows.max()
    assert found.count[2] == 0
    assert math.isnan(found.mean[2])


def test_images_are_the_samples_of_the_image_figures():
    x = torch.randn(7, 3, 20, 21) + torch.randn(7, 3, 1, 1) * 3
    found = cpu.measure(x)
    means = x.double().mean((2, 3)).numpy()
    np.testing.assert_allclose(found.image_mean, means.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.image_M2 / 6, means.var(0, ddof=1), rtol=1e-6)
    assert found.images.tolist() == [7, 7, 7]


@pytest.mark.parametrize("offset", [0, 100, 1e6])
def test_pieces_merge_to_the_whole_in_any_split_and_order(offset):
    x = torch.randn(13, 4, 30, 30) * torch.tensor([1, 1e-2, 5, 100]).view(1, 4, 1, 1) + offset
    for sizes in ([13], [1] * 13, [1, 12], [5, 5, 3], [3, 5, 5]):
        merged = reduce(moments.merge, [cpu.measure(piece) for piece in x.split(sizes)])
        assert_exact(merged, x)
        means = x.double().mean((2, 3)).numpy()
        np.testing.assert_allclose(merged.image_M2, means.var(0) * 13, rtol=1e-5)


def test_pieces_of_different_size_merge_exactly():
    pieces = [torch.randn(2, 3, 8, 8), torch.randn(5, 3, 20, 30) + 1, torch.randn(1, 3, 1, 1) - 4]
    merged = reduce(moments.merge, [cpu.measure(piece) for piece in pieces])
    rows = torch.cat([piece.double().transpose(0, 1).flatten(1) for piece in pieces], dim=1)
    np.testing.assert_allclose(merged.M2 / merged.count, rows.var(1, correction=0), rtol=1e-6)
    assert merged.images.tolist() == [8, 8, 8]


def test_an_empty_input_adds_nothing():
    x = torch.randn(3, 2, 4, 4)
    merged = moments.merge(cpu.measure(x[:0]), cpu.measure(x))
    assert_exact(merged, x)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("offset", [0, 30, 1e4])
def test_enqueue_agrees_with_the_definition(shape, offset):
    """What runs on a device is checked here on the CPU: the same operations, without a look at a number."""
    x = torch.randn(shape) + offset
    found = queued.together([queued.enqueue(x)])
    assert not queued.doubtful(found).any()
    assert_exact(found, x)


def test_enqueue_says_when_it_is_in_doubt():
    x = torch.randn(2, 3, 8, 8)
    broken = x.clone()
    broken[0, 0, 0, 0] = torch.nan
    for bad in (broken, x * 1e30, x * 1e-25):
        found = queued.together([queued.enqueue(bad)])
        assert queued.doubtful(found).any()
    constant = torch.full((2, 3, 8, 8), 0.1)
    found = queued.together([queued.enqueue(constant)])
    assert not queued.doubtful(found).any()
    assert (found.M2 == 0).all()


def test_collect_keeps_the_order_of_layers():
    """Sums over few and over many images, tensors that wait on a device, and what was measured at once."""
    layers = [torch.randn(images, channels, 40, 40) + channels for images, channels in PILE]
    ways = [cpu.sums_of, queued.enqueue, moments.exact, cpu.sums_of, cpu.sums_of, queued.enqueue]
    found = Way(torch.device("cpu")).together([way(x) for way, x in zip(ways, layers, strict=True)])
    ends = np.cumsum([channels for _, channels in PILE])
    for index, x in enumerate(layers):
        assert_exact(moments.Moments(*(np.split(vector, ends)[index] for vector in found)), x)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device that Triton compiles for")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not made for this system")
def test_where_triton_cannot_compile_another_way_is_taken_and_said():
    way = Way(torch.device("cpu"))
    way.kernels = triton.Kernels(torch.device("cpu"), processors=1)
    assert way._launched(torch.randn(2, 3, 4, 4)) is None
    assert "Triton could not compile for this device" in way.notes[0]
    assert_exact(way.together([queued.enqueue(torch.ones(2, 3, 4, 4))]), torch.ones(2, 3, 4, 4))


STRD = {  # name: values, certified mean, certified standard deviation, digits wanted
    "NumAcc1": ([10000001, 10000003, 10000002], "10000002", "1", 15),
    "NumAcc2": ([1.2] + [1.1, 1.3] * 500, "1.2", "0.1", 14.5),
    "NumAcc3": ([1000000.2] + [1000000.1, 1000000.3] * 500, "1000000.2", "0.1", 9.4),
    "NumAcc4": ([10000000.2] + [10000000.1, 10000000.3] * 500, "10000000.2", "0.1", 8.2),
}


@pytest.mark.parametrize("name", STRD)
def test_nist_reference_data(name):
    """NIST's Statistical Reference Datasets, univariate: digits that agree with the certified values."""
    values, mean, deviation, wanted = STRD[name]
    found = cpu.measure(torch.tensor(values, dtype=torch.float64).unsqueeze(1))
    std = math.sqrt(found.M2[0] / (found.count[0] - 1))
    assert _digits(std, deviation) >= wanted
    assert _digits(found.mean[0], mean) >= 14


def _digits(value, certified):
    error = abs(Fraction(float(value)) / Fraction(certified) - 1)
    return 15.0 if error == 0 else min(15.0, -math.log10(error))
