"""What is made of a batch_norm on meta is what torch makes of it, and what torch refuses is left to it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bninspect
from bninspect.errors import ForwardError
from bninspect.observe.meta import normalised

SHAPES = {"2-d": (4, 3), "3-d": (4, 3, 5), "4-d": (4, 3, 5, 6), "5-d": (2, 3, 4, 5, 6)}


def call(shape=(4, 3, 5, 6), channels=3, dtype=torch.float32, device="meta"):
    """What a layer gives to batch_norm: the input, then mean, variance, gamma and beta."""
    return [torch.ones(shape, dtype=dtype, device=device), *torch.ones(4, channels, device=device)]


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_it_is_what_torch_makes(shape, affine, dtype):
    x, mean, var, *vectors = call(shape, dtype=dtype)
    affine = dict(zip(("weight", "bias"), vectors, strict=True)) if affine else {}
    formats = {4: [torch.channels_last], 5: [torch.channels_last_3d]}.get(len(shape), [])
    for each in (x, x.transpose(0, -1).contiguous().transpose(0, -1), *(x.to(memory_format=one) for one in formats)):
        result = normalised(each, mean, var, **affine, training=False, momentum=0.1, eps=1e-5)
        expected = nn.functional.batch_norm(each, mean, var, **affine)
        assert (result.shape, result.dtype, result.stride()) == (expected.shape, expected.dtype, expected.stride())
        assert result.is_meta
        assert result is not each


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (call()[:3], {"training": True}),
        (call(device="cpu")[:3], {}),
        (call(channels=4)[:3], {}),
        (call((3,))[:3], {}),
        (call((0, 3, 5, 6))[:3], {}),
        (call(dtype=torch.int64)[:3], {}),
        (call()[:3], {"weight": torch.ones(5, device="meta")}),
        (call()[:3], {"bias": torch.ones(3)}),
        ([call()[0], None, None], {}),
        ([nn.Parameter(call()[0]), *call()[1:3]], {}),
    ],
)
def test_anything_else_is_for_torch_to_say(arguments, options):
    assert normalised(*arguments, **options) is None


def test_where_gradients_are_asked_for_it_is_for_torch_to_say():
    with torch.enable_grad():
        assert normalised(*call()[:3]) is None


def test_a_layer_of_another_number_of_channels_is_refused_as_torch_refuses_it():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(5))
    with pytest.raises(ForwardError, match=r"failed in layer 1, BatchNorm2d\(5"):
        bninspect.summary(model, (3, 8, 8))
