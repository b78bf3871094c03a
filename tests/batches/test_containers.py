"""Steps of a loader are taken apart by what they are: whatever has names as a dict has, or an order as a tuple has."""

from __future__ import annotations

import dataclasses
from collections import UserDict, namedtuple
from types import MappingProxyType, SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from bninspect.batches._elements import pick
from bninspect.containers import labels_of
from bninspect.errors import SourceError

IMAGE, LABEL, MASK = torch.randn(4, 3, 8, 8), torch.arange(4), torch.zeros(4, 8, 8)
Pair = namedtuple("Pair", ["label", "image"])


@dataclasses.dataclass
class Sample:
    label: torch.Tensor
    image: torch.Tensor


@pytest.mark.parametrize(
    "step",
    [
        {"label": LABEL, "image": IMAGE},
        UserDict(label=LABEL, image=IMAGE),
        MappingProxyType({"label": LABEL, "image": IMAGE}),
        SimpleNamespace(label=LABEL, image=IMAGE),
        Sample(LABEL, IMAGE),
        Pair(LABEL, IMAGE),
    ],
    ids=lambda step: type(step).__name__,
)
def test_the_image_is_found_by_name_and_so_are_the_labels(step):
    name, tensor = pick(step, None, "data")
    assert name == "image"
    torch.testing.assert_close(tensor, IMAGE)
    assert labels_of(step, len(IMAGE)) is LABEL
    assert pick(step, "label", "data")[0] == "label"


def test_they_nest():
    name, tensor = pick([UserDict(inputs=SimpleNamespace(mask=MASK, pixel_values=IMAGE))], None, "data")
    assert name == "0.inputs.pixel_values"
    assert tensor.shape == IMAGE.shape


@pytest.mark.parametrize("step", [MagicMock(), object(), Sample, "text"], ids=["mock", "object", "class", "text"])
def test_what_holds_no_tensor_is_said_to_be_what_it_is(step):
    with pytest.raises(SourceError, match=f"holds a {type(step).__name__}: a tensor was expected"):
        pick(step, None, "data")
