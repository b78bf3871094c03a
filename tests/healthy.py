"""Healthy networks for tests: torchvision's models with statistics that were set from smooth images."""

from __future__ import annotations

import inspect
import os
import warnings

import torch
from torch import nn
from torchvision import models

from bninspect.observe.layers import batchnorms

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


def build(name: str) -> nn.Module:
    """A torchvision model with random weights, nothing downloaded; detection models see small images."""
    builder = models.get_model_builder(name)
    known = inspect.signature(builder).parameters
    arguments = {"weights": None}
    if "weights_backbone" in known:
        arguments["weights_backbone"] = None
    if name.startswith(("fasterrcnn", "maskrcnn", "keypointrcnn")):
        arguments |= {"min_size": 64, "max_size": 64, "rpn_post_nms_top_n_test": 4, "box_detections_per_img": 2}
    elif name.startswith(("fcos", "retinanet")):
        arguments |= {"min_size": 64, "max_size": 64, "topk_candidates": 4}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return builder(**arguments).eval()


def smooth(images: int, *shape: int, seed: int = 0) -> torch.Tensor:
    """Smooth random images: noise on coarse grids, enlarged; standardised as ImageNet's are."""
    generator = torch.Generator().manual_seed(seed)
    spatial = len(shape) - 1
    kind = {1: "linear", 2: "bilinear", 3: "trilinear"}[spatial]
    total = torch.zeros(images, *shape)
    for cells in (2, 4, 8):
        coarse = torch.randn(images, shape[0], *[cells] * spatial, generator=generator)
        total += nn.functional.interpolate(coarse, size=shape[1:], mode=kind, align_corners=False) * 2 / cells
    return total


def train_a_little(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give gamma and beta the look of trained ones."""
    generator = torch.Generator().manual_seed(seed)
    for module in batchnorms(model).values():
        if isinstance(module.weight, nn.Parameter):
            with torch.no_grad():
                module.weight.copy_(0.7 + 0.6 * torch.rand(len(module.weight), generator=generator))
                module.bias.copy_(0.1 * torch.randn(len(module.bias), generator=generator))
    return model


def calibrate(model: nn.Module, *inputs: torch.Tensor) -> nn.Module:
    """Set running statistics from one forward in eval mode, layer after layer, so that each fits what reaches it."""

    def fit(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        x, dims = args[0].double(), [0, *range(2, args[0].dim())]
        mean = x.mean(dims, keepdim=True)
        module.running_mean.copy_(mean.flatten())
        module.running_var.copy_((x - mean).square_().mean(dims))  # in double precision half as slow as torch.var_mean
        module.num_batches_tracked.fill_(10_000)

    handles = [module.register_forward_pre_hook(fit) for module in batchnorms(model).values()]
    model.eval()
    with torch.no_grad():
        model(*inputs)
    for handle in handles:
        handle.remove()
    return model


def grave(report):
    """What is no mere information; and any loss by folding, which is."""
    return [
        (finding.code, finding.message)
        for finding in report.findings
        if finding.severity != "info" or finding.message.startswith("folding")
    ]
