"""The noise of batch statistics against a slow twin, and against data of which it is known."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from fingerprint import fingerprint
from torch import nn

import bninspect
from bninspect.errors import ForwardError, InputError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def net():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(8, 8, 3, bias=False),
        nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
    return model


@pytest.fixture
def images():
    return torch.randn(64, 3, 8, 8) + 2 * torch.randn(64, 3, 1, 1)


def drawn(images, batch_size, draws):
    """The same batches as are drawn for seed 0."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    chosen = [torch.randint(len(images), (batch_size,)) for _ in range(draws)]
    torch.set_rng_state(state)
    return chosen


def test_every_figure_is_that_of_torchs_own_training_mode(net, images):
    """Inputs of each layer, batch by batch, of a copy in training mode without dropout; then the definitions."""
    twin = copy.deepcopy(net).double().train()
    twin[3].p = 0.0
    inputs = {path: [] for path in ("1", "5")}
    for path, seen in inputs.items():
        twin.get_submodule(path).register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
    tops = {}
    for chosen in drawn(images, 16, 6):
        with torch.no_grad():
            output = twin(images[chosen].double())
        for image, row in {int(image): row for image, row in zip(chosen, output, strict=True)}.items():
            tops.setdefault(image, []).append(int(row.argmax()))
    report = bninspect.noise(net, images, batch_size=16, draws=6)
    for layer, (path, seen) in zip(report.layers, inputs.items(), strict=True):
        means = torch.stack([x.mean((0, 2, 3)) for x in seen]).numpy()
        variances = torch.stack([x.var((0, 2, 3), correction=0) for x in seen]).numpy()
        every = torch.cat(seen)
        total = every.var((0, 2, 3), correction=0).numpy() + 1e-5
        shift, scale = means.var(0, ddof=1) / total, variances.var(0, ddof=1) / (4 * total**2)
        per_image = every.mean((2, 3)).var(0).numpy() / (16 * total)
        assert (layer.path, layer.num_features, layer.positions) == (path, 8, seen[0][0, 0].numel())
        np.testing.assert_allclose(layer.channels.shift, shift, rtol=1e-3)
        np.testing.assert_allclose(layer.channels.scale, scale, rtol=1e-3)
        np.testing.assert_allclose(layer.channels.shift_per_image, per_image, rtol=1e-3)
        assert layer.shift == pytest.approx(np.median(shift), rel=1e-3)
        assert layer.scale_p95 == pytest.approx(np.quantile(scale, 0.95), rel=1e-3)
        assert layer.c_scale == pytest.approx(16 * layer.scale)
        assert layer.dropout / (1 - layer.dropout) == pytest.approx(layer.scale)
        assert layer.shift_iid == pytest.approx(1 / (16 * layer.positions))
    pairs = [a != b for own in tops.values() for a, b in itertools.combinations(own, 2)]
    assert report.predictions.disagreement == pytest.approx(sum(pairs) / len(pairs), abs=1e-3)
    assert report.predictions.num_images == sum(len(own) > 1 for own in tops.values())
    assert report.error == pytest.approx((2 / 5) ** 0.5)


@pytest.mark.parametrize(("draw", "kurtosis"), [(torch.randn, 3.0), (torch.rand, 1.8)])
def test_a_layer_on_independent_values(draw, kurtosis):
    """1 / B and (kurtosis - 1) / 4 B; the median of 256 channels of 41 draws is within a tenth."""
    net = nn.BatchNorm1d(256)
    report = bninspect.noise(net, draw(1312, 256), batch_size=32, draws=41)
    (layer,) = report.layers
    assert layer.channels.shift.mean() == pytest.approx(1 / 32, rel=0.1)
    assert layer.channels.scale.mean() == pytest.approx((kurtosis - 1) / (4 * 32), rel=0.1)
    assert layer.shift_iid == 1 / 32


def test_images_whose_positions_are_alike():
    """Each image has a mean of its own: the formula over images holds, the one over positions is far off."""
    images = torch.randn(800, 64, 1, 1) + 0.3 * torch.randn(800, 64, 6, 6)
    (layer,) = bninspect.noise(nn.BatchNorm2d(64), images, batch_size=16, draws=50).layers
    assert layer.channels.shift.mean() == pytest.approx(layer.channels.shift_per_image.mean(), rel=0.1)
    assert layer.shift > 25 * layer.shift_iid


def test_it_scales_with_the_batch_size():
    net = nn.Sequential(nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 1), nn.BatchNorm2d(32))
    images = torch.randn(512, 16, 4, 4) + torch.randn(512, 16, 1, 1)
    small, large = (bninspect.noise(net, images, batch_size=size, draws=150) for size in (8, 32))
    for a, b in zip(small.layers, large.layers, strict=True):
        assert 8 * a.channels.shift.mean() == pytest.approx(32 * b.channels.shift.mean(), rel=0.15)
        assert 8 * a.channels.scale.mean() == pytest.approx(32 * b.channels.scale.mean(), rel=0.15)
        assert a.shift > 3 * b.shift
    at_32 = next(size for size in small.scaled if size.batch_size == 32)
    assert at_32.shift_max == pytest.approx(max(layer.shift for layer in small.layers) / 4)
    assert [size.batch_size for size in small.scaled] == [2, 4, 8, 16, 32, 64, 128, 256, 512]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_found(net, images, training):
    net.train(training)
    before = fingerprint(net)
    report = bninspect.noise(net, images, batch_size=8, draws=3)
    assert fingerprint(net) == before
    assert [layer.path for layer in report.layers] == ["1", "5"]
    with pytest.raises(ForwardError):
        bninspect.noise(net, images[:, :2], batch_size=8)
    assert fingerprint(net) == before


def test_frozen_and_unused_layers_are_named(images):
    from torchvision.ops import FrozenBatchNorm2d

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = FrozenBatchNorm2d(3), *(nn.BatchNorm2d(3) for _ in range(3))

        def forward(self, x):
            return self.c(self.c(self.b(self.a(x))))

    net = Net()
    net.b.eval()
    report = bninspect.noise(net, images, batch_size=8, draws=4)
    assert [(layer.path, layer.calls) for layer in report.layers] == [("c", 2)]
    assert {layer.path: layer.reason for layer in report.left} == {
        "a": "frozen: its class normalises by stored statistics",
        "b": "frozen: in eval mode, while the model is in training mode",
        "d": "not executed",
    }
    assert any("mean over the calls: c" in note for note in report.notes)
    with pytest.raises(InputError, match="all 1 are frozen"):
        bninspect.noise(nn.Sequential(FrozenBatchNorm2d(3)), images, batch_size=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 65}, "batches of 65 images were asked for, and 64 were given"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"batch_size": 8, "draws": 1}, "draws at least 2"),
    ],
)
def test_too_few_images_or_draws(net, images, options, message):
    with pytest.raises(InputError, match=message):
        bninspect.noise(net, images, **options)


@pytest.mark.parametrize(
    ("model", "batch", "size", "message"),
    [
        (nn.BatchNorm1d(3), torch.randn(8, 3), 1, "a single value per channel"),
        (nn.BatchNorm1d(3), torch.full((8, 3), torch.nan), 4, "NaN or infinite"),
        (nn.Linear(3, 3), torch.randn(8, 3), 4, "it has no BatchNorm layer"),
        (nn.BatchNorm1d(3), [], 4, "empty"),
        (nn.BatchNorm2d(3), [torch.randn(2, 3, 4, 4), torch.randn(2, 3, 5, 5)], 4, "2 different sizes"),
    ],
)
def test_what_cannot_be_measured(model, batch, size, message):
    with pytest.raises(InputError, match=message):
        bninspect.noise(model, batch, batch_size=size)


def test_few_images_are_told(net, images):
    assert "drawn from 64 images" in bninspect.noise(net, images, batch_size=16, draws=20).notes[0]
    assert bninspect.noise(net, images, batch_size=4, draws=20).notes == ()


def test_the_command_shows_what_the_function_returns(run, tmp_path, images):
    (tmp_path / "nets.py").write_text(
        "import torch\nfrom torch import nn\n\ndef make():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))\n"
    )
    torch.save(images, tmp_path / "images.pt")
    outputs = {}
    for form in ("table", "json", "csv", "markdown"):
        arguments = ("noise", "nets.py:make", "--batch", "images.pt", "--batch-size", "8", "--format", form)
        code, outputs[form], err = run(*arguments)
        assert (code, err) == (0, "")
    import msgspec

    held = msgspec.json.decode(outputs["json"])
    assert held["schema"] == "bninspect.noise"
    assert held["layers"][0]["channels"] is None
    assert f"{100 * held['layers'][0]['shift'] ** 0.5:.3g} %" in outputs["table"]
    assert outputs["table"].isascii()
    assert "What cannot: that it regularises this net as dropout would" in outputs["markdown"]
    assert outputs["csv"].splitlines()[1].split(",")[:3] == ["1", "BatchNorm2d", "4"]
    code, _, err = run("noise", "nets.py:make", "--batch", "images.pt")
    assert (code, "--batch-size" in err) == (2, True)
    made_up = ("--batch", "random", "--input", "3,8,8", "--batch-size", "4")
    assert "Note: the batch is synthetic" in run("noise", "nets.py:make", *made_up)[1]
