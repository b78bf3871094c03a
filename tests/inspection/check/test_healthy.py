"""Silence on healthy networks."""

from __future__ import annotations

import os
from functools import partial

import pytest
import torch
from healthy import build, calibrate, smooth, train_a_little
from torch import nn
from torchvision import models
from torchvision.ops import FrozenBatchNorm2d

import bninspect
from bninspect.observe import meta
from bninspect.observe.layers import batchnorms

DETECTION = models.list_models(models.detection)
VIDEO = models.list_models(models.video)
WIDE = {"raft_large": [(3, 128, 128)] * 2, "s3d": (3, 14, 224, 224), "maxvit_t": (3, 224, 224)}
WITHOUT = (  # names of models that have no BatchNorm
    "alexnet", "convnext", "mvit", "raft_small", "squeezenet", "ssd300", "swin", "vgg", "vit",
)  # fmt: skip
LIVE = [
    "resnet18", "resnet34", "resnet50", "resnext50_32x4d", "densenet121", "densenet169", "googlenet",
    "inception_v3", "vgg11_bn", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large",
    "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0", "mnasnet0_5", "mnasnet0_75",
    "mnasnet1_0", "mnasnet1_3", "efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3",
    "efficientnet_v2_s", "regnet_x_400mf", "regnet_x_800mf", "regnet_x_1_6gf", "regnet_x_3_2gf", "regnet_y_400mf",
    "regnet_y_800mf", "regnet_y_1_6gf", "regnet_y_3_2gf", "quantized_resnet18", "quantized_mobilenet_v2",
    "quantized_mobilenet_v3_large", "quantized_shufflenet_v2_x0_5", "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large", "r3d_18",
]  # fmt: skip
if os.environ.get("BNINSPECT_ALL_MODELS"):  # a minute more
    LIVE += [
        "resnet101", "resnet152", "wide_resnet50_2", "densenet161", "densenet201", "vgg13_bn", "vgg16_bn",
        "efficientnet_b4", "efficientnet_v2_m",
        "regnet_x_8gf", "regnet_y_8gf", "fcn_resnet50", "deeplabv3_resnet50", "fasterrcnn_resnet50_fpn_v2",
        "mc3_18", "r2plus1d_18",
    ]  # fmt: skip


def grave(report):
    """What is no mere information; and any loss by folding, which is."""
    return [
        (finding.code, finding.message)
        for finding in report.findings
        if finding.severity != "info" or finding.message.startswith("folding")
    ]


def look_trained(model):
    """Values of trained layers in a model without memory: the graph needs no others."""
    generator = torch.Generator().manual_seed(0)
    for module in batchnorms(model).values():
        shape = (module.num_features,)
        module.weight = nn.Parameter(0.5 + torch.rand(shape, generator=generator))
        module.bias = nn.Parameter(0.1 * torch.randn(shape, generator=generator))
        module.running_mean = torch.randn(shape, generator=generator)
        module.running_var = 0.1 + torch.rand(shape, generator=generator)
        module.num_batches_tracked = torch.tensor(100_000)
    return model


def trained(name):
    """A model with the values of a trained one; without memory for the rest, where the graph needs no values."""
    if name in DETECTION:
        model = train_a_little(build(name))
        for module in batchnorms(model).values():
            module.running_mean.normal_()
            module.num_batches_tracked.fill_(100_000)
        return model
    with meta.on_meta():
        model = build(name)
    return look_trained(model)


def state_and_graph(name):
    """What rules on stored values, modes and the graph say of a network, and which of them could not look."""
    torch.manual_seed(0)
    model = trained(name)
    if not batchnorms(model):
        return None
    size = WIDE.get(name, (3, 8, 112, 112) if name in VIDEO else (3, 75, 75) if "incept" in name else (3, 64, 64))
    report = bninspect.check(model, input_size=size)
    silent = [one.code for one in report.silent if one.code < "BN4" and "not measured" not in one.reason]
    return grave(report) + grave(bninspect.check(model.train(), select=["BN2", "BN110"])), silent


def everything(name):
    """What all rules say of a calibrated network on other images, in eval mode and in train mode."""
    torch.manual_seed(0)
    size = (3, 8, 32, 32) if name in VIDEO else (3, 75, 75) if "incept" in name else (3, 48, 48)
    model = calibrate(train_a_little(build(name)), smooth(64, *size, seed=1))
    report = bninspect.check(model, smooth(32, *size, seed=2))
    silent = [one.code for one in report.silent]
    return (
        report.num_images,
        grave(report),
        grave(bninspect.check(model.train(), input_size=size, batch_size=32)),
        silent,
    )


@pytest.mark.parametrize("name", models.list_models())
def test_rules_on_state_and_graph_are_silent_for_all_of_torchvision(name, one_thread):
    outcome = state_and_graph(name)
    assert outcome == (None if name.startswith(WITHOUT) and not name.endswith("_bn") else ([], []))


@pytest.mark.parametrize("name", LIVE)
def test_all_rules_are_silent_on_healthy_networks(name, one_thread):
    images, evaluating, training, silent = everything(name)
    assert images == 32
    assert not evaluating
    assert not training
    assert set(silent) <= {"BN402", "BN403", "BN404", "BN405", "BN406", "BN407", "BN408", "BN409", "BN412", "BN113"}


def test_the_catalogue_of_healthy_networks_is_large_enough():
    assert len(set(LIVE)) >= 40
    assert set(LIVE) <= set(models.list_models())


def old_checkpoint():
    """A state dict of old, without num_batches_tracked, loaded into a new model."""
    state = calibrate(train_a_little(build("resnet18")), smooth(64, 3, 64, 64, seed=1)).state_dict()
    model = build("resnet18")
    model.load_state_dict({name: value for name, value in state.items() if "num_batches_tracked" not in name})
    assert not model.bn1.num_batches_tracked
    return model, smooth(32, 3, 64, 64, seed=2)


def raw_pixels():
    """Trained on images of 0 to 255: running_var of the first layer is in the thousands."""
    model = calibrate(train_a_little(build("resnet18")), 128 + 60 * smooth(64, 3, 64, 64, seed=1))
    assert model.bn1.running_var.max() > 1000
    return model, 128 + 60 * smooth(32, 3, 64, 64, seed=2)


def zero_init_residual():
    """The last gamma of each block starts at zero, and a few stay there."""
    model = train_a_little(models.resnet18(weights=None, zero_init_residual=True))
    for block in (model.layer1[0], model.layer3[1]):
        nn.init.zeros_(block.bn2.weight)
    return calibrate(model, smooth(64, 3, 64, 64, seed=1)), smooth(32, 3, 64, 64, seed=2)


def frozen_backbone():
    """FrozenBatchNorm2d with eps 0, as the published detection weights have it, and statistics of its own."""
    norm = partial(FrozenBatchNorm2d, eps=0.0)
    model = models.resnet18(weights=None, norm_layer=norm)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            nn.init.uniform_(module.weight, 0.7, 1.3)

    def fit(module, args):
        var, mean = torch.var_mean(args[0], (0, 2, 3), correction=0)
        module.running_mean.copy_(mean)
        module.running_var.copy_(var)

    handles = [module.register_forward_pre_hook(fit) for module in batchnorms(model).values()]
    with torch.no_grad():
        model.eval()(smooth(64, 3, 64, 64, seed=1))
    for handle in handles:
        handle.remove()
    return model, smooth(32, 3, 64, 64, seed=2)


@pytest.mark.parametrize("make", [old_checkpoint, raw_pixels, zero_init_residual, frozen_backbone])
def test_all_rules_are_silent_on_what_looks_like_a_fault(make):
    model, x = make()
    report = bninspect.check(model, x)
    assert report.num_images == 32
    assert not grave(report)
    assert not grave(bninspect.check(model.train(), input_size=(3, 64, 64)))
