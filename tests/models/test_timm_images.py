"""Images for models of timm: they go through what timm would put them through, and the report says what that was."""

from __future__ import annotations

import json

import hub
import numpy as np
import pytest
import timm
import torch
from hub import load
from PIL import Image

from bninspect.batches import BatchOptions, images

OWN = {"input_size": [3, 24, 24], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "crop_pct": 0.5}
OWN |= {"interpolation": "nearest", "num_classes": 10, "first_conv": "conv1.0", "classifier": "fc"}
JSON = ("--format", "json", "--channels")


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for name in ("0.png", "1.png"):
        pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def expected(photos, net):
    """What timm makes of the images for a model, by its own two functions."""
    config = timm.data.resolve_model_data_config(net)
    transform = timm.data.create_transform(**config, is_training=False)
    return torch.stack([transform(Image.open(path).convert("RGB")) for path in sorted(photos.iterdir())])


def batch_of(photos, found, **options):
    batch = images.load(str(photos), BatchOptions(own=found.transforms, **options))
    return batch.kind, torch.cat(list(batch.data))


@pytest.mark.parametrize(
    ("text", "weights", "name"),
    [
        ("timm:test_resnet", None, "test_resnet.r160_in1k"),
        ("timm:test_resnet", "DEFAULT", "test_resnet.r160_in1k"),
        ("timm:resnet18", None, "resnet18.a1_in1k"),
        ("timm:resnet18.fb_swsl_ig1b_ft_in1k", None, "resnet18.fb_swsl_ig1b_ft_in1k"),
        ("timm:resnet18", "tv_in1k", "resnet18.tv_in1k"),
        ("timm:cs3sedarknet_xdw", None, "cs3sedarknet_xdw.untrained"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_name_has_the_transforms_of_its_weights(photos, text, weights, name, workers):
    kind, batch = batch_of(photos, load(text, weights=weights), workers=workers)
    assert kind == f"images, timm:{name}"
    torch.testing.assert_close(batch, expected(photos, timm.create_model(name)), rtol=0, atol=0)


def test_a_repository_has_its_own(photos, cache):
    hub.lay_out(cache, "me/net", {"config.json": hub.config(pretrained_cfg=OWN)})
    found = load("hf-hub:me/net")
    kind, batch = batch_of(photos, found)
    assert (kind, batch.shape[1:]) == ("images, hf-hub:me/net", (3, 24, 24))
    torch.testing.assert_close(batch, expected(photos, found.outline()), rtol=0, atol=0)


def test_the_commands(photos, cache, run):
    net = hub.trained(num_classes=10)
    files = {"config.json": hub.config(pretrained_cfg=OWN), "model.safetensors": hub.weights(net)}
    hub.lay_out(cache, "me/net", files)
    code, out, err = run("stats", "hf-hub:me/net", "--batch", photos, *JSON)
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert (report["source"]["batch_kind"], report["num_images"]) == ("images, hf-hub:me/net", 2)
    mean = net.conv1[0](expected(photos, load("hf-hub:me/net").outline())).mean((0, 2, 3))
    torch.testing.assert_close(torch.tensor(report["layers"][0]["channels"]["mean"]), mean, rtol=1e-4, atol=1e-5)
    code, out, _ = run("check", "hf-hub:me/net", "--batch", photos)
    assert code in (0, 1)
    assert "2 images, prepared by hf-hub:me/net\n" in out
    assert "prepared by hf-hub:me/net)" in run("stats", "hf-hub:me/net", "--batch", photos)[1]


def test_others_may_be_named(photos, run):
    name = "ResNet18_Weights.IMAGENET1K_V1"
    code, out, _ = run("stats", "timm:test_resnet", "--batch", photos, "--transforms", name, *JSON)
    assert code == 0
    report = json.loads(out)
    assert (report["source"]["batch_kind"], report["source"]["batch_shape"]) == (f"images, {name}", [2, 3, 224, 224])


def test_a_model_filled_from_a_file_has_those_of_its_name(photos, run, tmp_path):
    torch.save(hub.trained().state_dict(), tmp_path / "best.pt")
    code, out, _ = run("stats", "timm:test_resnet", "--checkpoint", "best.pt", "--batch", photos, *JSON)
    assert code == 0
    assert json.loads(out)["source"]["batch_kind"] == "images, timm:test_resnet.r160_in1k"


def test_torchvisions_come_with_its_weights():
    name, transforms = load("resnet18", weights="DEFAULT").transforms()
    assert name == "ResNet18_Weights.IMAGENET1K_V1"
    assert transforms.crop_size == [224]


@pytest.mark.parametrize("model", [("resnet18",), ("nets.py:net",), ()])
def test_where_there_are_none(photos, run, tmp_path, model):
    (tmp_path / "nets.py").write_text("from torch import nn\nnet = nn.Sequential(nn.BatchNorm2d(3))\n")
    code, out, err = run("stats", *model, "--batch", photos)
    assert (code, out) == (2, "")
    assert f"the images of {photos} need the transforms of the model's training, which are not known" in err
    assert "add --transforms NAME" in err
    assert "--weights" not in err


@pytest.mark.parametrize(
    "change", [{"mean": "abc"}, {"crop_pct": "x"}, {"input_size": 3}, {"interpolation": "\x1b[2J"}]
)
def test_configurations_of_strangers(photos, run, cache, change):
    hub.lay_out(cache, "me/net", {"config.json": hub.config(pretrained_cfg={**OWN, **change})})
    code, out, err = run("stats", "hf-hub:me/net", "--batch", photos)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "\x1b" not in err
