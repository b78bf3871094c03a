"""BN402 for inputs of every kind: sound, tables, spectra, grey and transparent images, channels last."""

from __future__ import annotations

import pytest
import torch
from healthy import calibrate, smooth, train_a_little
from looks import found, look
from torch import nn

from bninspect.rules.data_facts import Candidate, Data
from bninspect.rules.data_inputs import bn402_input_preprocessing
from bninspect.rules.facts import Facts

MEAN, STD = (torch.tensor(values) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def sound(samples, seed, length=256):
    """Sound of every loudness, in [-1, 1]."""
    x = smooth(samples, 1, length, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    return (0.05 * torch.exp(torch.randn(samples, 1, 1, generator=generator)) * x).clamp(-1, 1)


def own(x):
    """Each sample standardised."""
    axes = tuple(range(1, x.dim()))
    return (x - x.mean(axes, keepdim=True)) / x.std(axes, keepdim=True)


def grey(images, seed):
    return 0.5 + 0.15 * smooth(images, 1, 16, 16, seed=seed)


def tinted(images, seed):
    tint = torch.tensor([2.0, 1.0, 0.3, 0.1]).view(4, 1, 1)
    return tint * smooth(images, 4, 16, 16, seed=seed) + tint


def last(images, seed):
    return (0.5 + 0.2 * smooth(images, 3, 16, 16, seed=seed)).permute(0, 2, 3, 1)


def table(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 6, generator=generator) * torch.tensor([1.0, 50, 3, 0.01, 7, 200]) + 9


def spectra(samples, seed):
    return torch.exp(2 * smooth(samples, 4, 64, seed=seed))


class Last(nn.Module):
    """Images that arrive as [N, H, W, C]."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x):
        return self.bn(self.conv(x.permute(0, 3, 1, 2)))


def conv1d(channels):
    return lambda: nn.Sequential(nn.Conv1d(channels, 8, 9, bias=False), nn.BatchNorm1d(8), nn.ReLU())


def conv2d(channels):
    return lambda: nn.Sequential(nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8), nn.ReLU())


def linear():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())


def identity(x):
    return x


CASES = {
    "sound standardised by itself": (conv1d(1), sound, own, identity, "standardise each sample"),
    "sound of 16 bits": (conv1d(1), sound, identity, lambda x: x * 32768, "divide by 32768"),
    "sound without its bits": (conv1d(1), sound, lambda x: x * 32768, identity, "multiply by 32768"),
    "grey bytes": (conv2d(1), grey, identity, lambda x: x * 255, "divide by 255"),
    "grey digits": (conv2d(1), grey, lambda x: (x - 0.1307) / 0.3081, identity, "subtract MNIST"),
    "four colours": (conv2d(4), tinted, identity, lambda x: x[:, [2, 1, 0, 3]], "swap RGB and BGR"),
    "channels last": (Last, last, lambda x: (x - MEAN) / STD, identity, "subtract ImageNet"),
    "channels last in bytes": (Last, last, lambda x: (x - MEAN) / STD, lambda x: 255 * x, "divide by 255, then Image"),
    "a table": (linear, table, lambda x: (x - x.mean(0)) / x.std(0), identity, "standardise each feature"),
    "spectra": (conv1d(4), spectra, torch.log, identity, "take the logarithm"),
    "spectra with zeros": (conv1d(4), lambda n, seed: spectra(n, seed).sub(1).relu(), torch.log1p, identity,
                           "take the logarithm of 1 + x"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bn402_hits_what_was_left_out_before_any_kind_of_network(name):
    make, data, trained, given, cure = CASES[name]
    torch.manual_seed(0)
    model = calibrate(train_a_little(make()), trained(data(256, seed=1)))
    assert not found(model, "BN402", trained(data(64, seed=2)))
    (finding,) = found(model, "BN402", given(data(64, seed=2)))
    assert finding.message.partition(": ")[2].startswith(cure)
    assert finding.evidence["distance_after"] < 0.25
    assert finding.severity == "warning"
    assert ("a shift of the domain looks the same" in finding.fix) == cure.startswith("standardise")
    few = found(model, "BN402", given(data(8, seed=2)))
    assert {finding.severity for finding in few} <= {"info"}


@pytest.mark.parametrize(("make", "data"), [(conv1d(1), sound), (conv2d(1), grey), (linear, table), (Last, last)])
def test_bn402_misses_statistics_that_no_input_has(make, data):
    """The layer's own statistics were spoiled: nothing that is done to the input puts them right."""
    torch.manual_seed(0)
    model = calibrate(train_a_little(make()), data(256, seed=1))
    norm = next(module for module in model.modules() if hasattr(module, "running_var"))
    norm.running_var *= torch.logspace(-3, 3, 8)
    norm.running_mean += 3 * torch.randn(8) * norm.running_var.sqrt()
    report = look(model, "BN402", data(64, seed=2))
    assert not report.findings
    assert not report.silent


class Strict(nn.Module):
    """Refuses what is not in [0, 1]."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x):
        if x.min() < 0 or x.max() > 1:
            raise ValueError("pixels are in [0, 1]")
        return self.bn(x)


def test_changes_that_the_model_refuses_are_left_out():
    x = torch.rand(64, 3, 8, 8)
    model = calibrate(train_a_little(Strict()), x / 255)
    (finding,) = found(model, "BN402", x)
    assert finding.message.endswith(": divide by 255")


def scenes(images, seed):
    """Images in [0, 1] with a tint, brighter above than below."""
    tint = torch.tensor([0.62, 0.5, 0.3]).view(3, 1, 1)
    light = torch.linspace(0.1, -0.1, 16).view(1, 1, 16, 1)
    return (tint + light + 0.1 * smooth(images, 3, 16, 16, seed=seed)).clamp(0, 1)


def imagenet(x):
    return (x - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)


def caffe(x):
    return 255 * x.flip(1) - torch.tensor([103.939, 116.779, 123.68]).view(3, 1, 1)


def reshaped(x):
    return x.permute(0, 2, 3, 1).reshape(x.shape)


def colours():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
    )


PREPARED = {
    "inverted": (identity, lambda x: 1 - x, "invert the images before they are prepared for [0, 1]"),
    "inverted and normalised": (
        imagenet,
        lambda x: imagenet(1 - x),
        "invert the images before they are prepared for Ima",
    ),
    "swapped": (
        imagenet,
        lambda x: imagenet(x.flip(1)),
        "swap RGB and BGR before the images are prepared for ImageNet",
    ),
    "reshaped": (identity, reshaped, "transpose [N, H, W, C], which was only reshaped"),
    "reshaped and normalised": (imagenet, lambda x: imagenet(reshaped(x)), "transpose [N, H, W, C], which was only"),
    "for Caffe": (caffe, identity, "prepare the images for Caffe: BGR in [0, 255] less its mean, and not for [0, 1]"),
    "not for Caffe": (
        imagenet,
        caffe,
        "prepare the images for ImageNet's mean and standard deviation, and not for Caffe",
    ),
}


@pytest.mark.parametrize("name", PREPARED)
def test_bn402_names_the_change_that_puts_all_layers_right(name):
    """Another one, such as swapped colours for inverted images, may serve the first layer in part."""
    trained, given, cure = PREPARED[name]
    torch.manual_seed(0)
    model = calibrate(train_a_little(colours()), trained(scenes(256, seed=1)))
    assert not found(model, "BN402", trained(scenes(64, seed=2)))
    (finding,) = found(model, "BN402", given(scenes(64, seed=2)))
    assert finding.message.startswith(f"the first layer fits the data after this change: {cure}")
    assert " or: " not in finding.message


def test_bn402_misses_grey_images_which_no_change_makes_coloured():
    torch.manual_seed(0)
    model = calibrate(train_a_little(colours()), imagenet(scenes(256, seed=1)))
    report = look(model, "BN402", imagenet(scenes(64, seed=2).mean(1, keepdim=True).expand(-1, 3, -1, -1)))
    assert not report.findings
    assert not report.silent


class Beside(nn.Module):
    """Another layer is called before the images come: of a code that was learned, or of another input."""

    def __init__(self):
        super().__init__()
        self.code = nn.Parameter(torch.randn(4, 8))
        self.side, self.body = nn.BatchNorm1d(8), colours()

    def forward(self, x, y=None):
        side = self.side(self.code if y is None else y)
        return self.body(x) + side.mean()


def test_bn402_looks_at_the_layer_that_the_input_reaches():
    torch.manual_seed(0)
    model = calibrate(train_a_little(Beside()), imagenet(scenes(256, seed=1)))
    (finding,) = found(model, "BN402", scenes(64, seed=2))
    assert "subtract ImageNet" in finding.message
    assert "the distance of body.1 drops" in finding.told
    assert not found(model, "BN402", imagenet(scenes(64, seed=2)))
    model.side.running_mean += 9
    assert not found(model, "BN402", imagenet(scenes(64, seed=2)))


def test_bn402_tries_each_of_several_inputs():
    torch.manual_seed(0)
    rows = 3 + 2 * torch.randn(256, 8)
    model = calibrate(train_a_little(Beside()), imagenet(scenes(256, seed=1)), rows)
    right = imagenet(scenes(64, seed=2)), rows[:64]
    assert not found(model, "BN402", right)
    (finding,) = found(model, "BN402", (scenes(64, seed=2), right[1]))
    assert finding.message.startswith("the first layer fits the data after this change of input 1: subtract ImageNet")
    (finding,) = found(model, "BN402", (right[0], 255 * right[1]))
    assert finding.message == "the first layer fits the data after this change of input 2: divide by 255"
    both = found(model, "BN402", (scenes(64, seed=2), 255 * right[1]))
    assert [finding.message.partition("change of ")[2][:7] for finding in both] == ["input 1", "input 2"]


def test_bn402_asks_for_each_of_its_bounds():
    def names(**changes):
        one = {"name": "divide by 255", "layer": "1", "before": 9.0, "after": 0.01, "off": 0.0, **changes}
        facts = Facts((), data=Data(num_images=64, batches=1, candidates=(Candidate(**one),)))
        return [hit.message.rpartition(": ")[2] for hit in bn402_input_preprocessing.body(facts)]

    assert names() == ["divide by 255"]
    assert [names(before=0.03), names(after=0.2), names(off=0.3)] == [[], [], []]


def test_of_changes_that_serve_the_layers_behind_decide():
    def names(*behind):
        both = [
            Candidate(name=name, layer="1", before=9.0, after=after, off=0.0, behind=left)
            for name, after, left in zip(("divide by 255", "take the logarithm"), (0.01, 0.02), behind, strict=True)
        ]
        facts = Facts((), data=Data(num_images=64, batches=1, candidates=tuple(both)))
        (hit,) = bn402_input_preprocessing.body(facts)
        return hit.message.rpartition(": ")[2]

    assert names(0.5, 0.001) == "take the logarithm"
    assert names(0.001, 0.5) == "divide by 255"
