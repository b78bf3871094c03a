"""All models of torchvision, each built once: what ``summary`` counts, and that no rule speaks of them."""

from __future__ import annotations

import pytest
import torch
from healthy import LIVE, build, grave, train_a_little
from torch import nn
from torchvision import models

import bninspect
from bninspect import _plugins
from bninspect.models import ModelOptions, find
from bninspect.observe import meta
from bninspect.observe.layers import batchnorms

DETECTION = models.list_models(models.detection)
INPUTS = {  # models whose input is not one image of 3 x 224 x 224
    "raft_large": ((3, 128, 128), (3, 128, 128)),
    "raft_small": ((3, 128, 128), (3, 128, 128)),
    **dict.fromkeys(("r3d_18", "mc3_18", "r2plus1d_18"), ((3, 16, 112, 112),)),
    **dict.fromkeys(("swin3d_t", "swin3d_s", "swin3d_b"), ((3, 2, 32, 32),)),
    **dict.fromkeys(("mvit_v1_b", "mvit_v2_s"), ((3, 16, 224, 224),)),
    "s3d": ((3, 16, 224, 224),),
    "inception_v3": ((3, 299, 299),),
    "quantized_inception_v3": ((3, 299, 299),),
}
AUXILIARY = {"googlenet": 2, "inception_v3": 2, "quantized_googlenet": 2, "quantized_inception_v3": 2}
WITHOUT = (  # names of models that have no BatchNorm
    "alexnet", "convnext", "mvit", "raft_small", "squeezenet", "ssd300", "swin", "vgg", "vit",
)  # fmt: skip


def builder(name):
    source, value = find(name, _plugins.plugins("models", "SCHEME"))
    return source.load(value, ModelOptions()).build


@pytest.mark.parametrize("name", sorted(set(models.list_models()) - set(DETECTION)))
def test_a_model(name, one_thread):
    """Built without memory by ``summary`` itself, which leaves it as it was for ``check``."""
    built = []
    size = INPUTS.get(name, ((3, 224, 224),))
    report = bninspect.summary(lambda: built.append(builder(name)()) or built[0], size)
    (tree,) = built
    counted(report, tree, unused=AUXILIARY.get(name, 0))
    if name not in LIVE and has_batchnorm(name, tree):  # those are seen at work
        silent(look_trained(tree), size)


@pytest.mark.parametrize("name", DETECTION)
def test_a_detection_model(name, one_thread):
    """Counted is its backbone alone, as a real forward is slow, and ``check`` needs one."""
    with meta.on_meta():
        tree = builder(name)()
    size = ((3, 300, 300),) if "ssd300" in name else ((3, 64, 64),)
    counted(bninspect.summary(tree.backbone, size), tree.backbone)
    if has_batchnorm(name, tree):
        model = train_a_little(build(name))
        for module in batchnorms(model).values():
            module.running_mean.normal_()
            module.num_batches_tracked.fill_(100_000)
        silent(model, (3, 64, 64))


def has_batchnorm(name, tree):
    found = bool(batchnorms(tree))
    assert found != (name.startswith(WITHOUT) and not name.endswith("_bn"))
    return found


def counted(report, tree, unused=0):
    """Its BatchNorm layers, parameters and buffers are those of the module tree."""
    norms = [module for module in tree.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert report.execution == "meta"
    assert report.totals.num_batchnorm == len(norms)
    assert len(report.layers) == len(norms) - unused
    assert len(report.never_called) == unused
    assert report.called_repeatedly == ()
    assert report.functional_calls == ()
    assert report.totals.num_parameters == sum(parameter.numel() for parameter in tree.parameters())
    assert report.totals.num_buffer_elements == sum(buffer.numel() for buffer in tree.buffers())
    features = sum(layer.num_features for layer in report.layers + report.never_called)
    assert features == sum(module.num_features for module in norms)


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
    return model.eval()


def silent(model, size):
    """Rules on stored values, modes and the graph have looked, and say nothing."""
    report = bninspect.check(model, input_size=size)
    assert not grave(report)
    assert [one.code for one in report.silent if one.code < "BN4" and "not measured" not in one.reason] == []
    assert not grave(bninspect.check(model.train(), select=["BN2", "BN110"]))
