"""Layers of a state dict that would be BatchNorm but for the statistics: named, and not confused with containers."""

import pytest
import torch
from healthy import build
from torch import nn

from bninspect.models.stored.reading import read


def notes(module, path):
    torch.save(module.state_dict(), path)
    return [note for note in read(str(path)).notes if "without running statistics" in note]


@pytest.mark.parametrize(
    "name",
    ["densenet121", "mnasnet0_5", "vit_b_32", "lraspp_mobilenet_v3_large", "quantized_mobilenet_v3_large",
     "fasterrcnn_mobilenet_v3_large_fpn"],
)  # fmt: skip
def test_containers_whose_version_is_that_of_batchnorm_are_not_named(name, tmp_path):
    model = build(name)
    assert any(module._version == 2 and not hasattr(module, "running_mean") for module in model.modules())
    assert notes(model, tmp_path / "m.pt") == []


class Versioned(nn.Module):
    """A layer of the same version, which is no norm: other vectors, or other names."""

    _version = 2

    def __init__(self, **shapes):
        super().__init__()
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.zeros(shape)))


def test_layers_of_other_vectors_are_not_named(tmp_path):
    others = ({"weight": (4, 4), "bias": (4,)}, {"weight": (4,), "bias": (2,)}, {"weight": (4,), "scale": (4,)})
    model = nn.Sequential(*(Versioned(**shapes) for shapes in others), nn.BatchNorm2d(4))
    assert notes(model, tmp_path / "m.pt") == []


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4, track_running_stats=False), nn.InstanceNorm2d(4, affine=True)])
def test_norms_without_statistics_are_named(norm, tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), norm, nn.BatchNorm2d(4))
    (note,) = notes(model, tmp_path / "m.pt")
    assert note.startswith("1 layers")
    assert note.endswith(": 1")
