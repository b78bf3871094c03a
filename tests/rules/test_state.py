"""BN1xx: each fault as it arises in practice, and what looks like it."""

from __future__ import annotations

import torch
from healthy import calibrate, smooth, train_a_little
from small import small, train
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.models import resnet18

import bninspect


def found(model, code, batch=None, **options):
    """Findings of one rule."""
    return bninspect.check(model, batch, select=[code], **options).findings


def test_bn101_hits_after_one_batch_with_an_infinity():
    model = small().train()
    x = torch.randn(4, 3, 8, 8)
    x[1, 2, 3, 3] = torch.inf
    model(x)
    (finding,) = found(model, "BN101")
    assert (finding.severity, finding.path) == ("error", "1")
    assert finding.channels == tuple(range(8))
    assert finding.evidence["nonfinite_state"] == 16


def test_bn101_misses_statistics_of_raw_pixels():
    assert not found(train(small(), 3, scale=50, offset=128), "BN101")


def test_bn102_misses_zero():
    model = train(small(), 2)
    model[1].running_var[0] = 0
    assert not found(model, "BN102")


def exchanged(model):
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            mean, var = module.running_mean.clone(), module.running_var.clone()
            module.running_mean.copy_(var), module.running_var.copy_(mean)
    return model


def test_bn102_tells_of_a_mean_and_a_variance_in_each_others_place():
    model = calibrate(train_a_little(small()), smooth(64, 3, 8, 8))
    (finding,) = found(exchanged(model), "BN102")
    assert "look exchanged" in finding.message
    model[1].running_var[1:].abs_().add_(1)
    model[1].running_var[0] = -1  # in one channel, which is no mean
    assert [finding.message for finding in found(model, "BN102")] == ["running_var is negative"]


def test_bn103_misses_single_channels():
    model = train(small(), 2)
    model[1].running_var[:3] = 0
    assert not found(model, "BN103")


def test_bn106_misses_a_small_honest_variance_and_a_layer_of_zeros():
    model = train(small(), 60, scale=0.05)
    assert 1e-5 < model[1].running_var.min() < 1e-2
    assert not found(model, "BN106")
    model[1].running_var.zero_()
    assert not found(model, "BN106")


def test_bn107_misses_a_residual_branch_that_starts_at_zero():
    model = train_a_little(resnet18(weights=None, zero_init_residual=True))
    for block in (model.layer1[0], model.layer2[0]):
        nn.init.zeros_(block.bn2.weight)
    assert not found(model, "BN107")
    nn.init.constant_(model.bn1.weight, 1e-6)
    assert not found(model, "BN107")


class Adds(nn.Module):
    """A residual addition before the ReLU."""

    def forward(self, x):
        return (x + x.flip(1)).relu()


def shifted(beta, follower):
    model = calibrate(train_a_little(small(follower)), smooth(8, 3, 16, 16))
    with torch.no_grad():
        model[1].bias[4] = beta
    return model


def test_bn108_hits_a_beta_far_below_zero():
    (finding,) = found(shifted(-8.0, nn.ReLU()), "BN108")
    assert (finding.severity, finding.channels) == ("info", (4,))
    assert finding.evidence["beta_sigmas"] < -4


def test_bn108_misses_other_activations():
    for follower in (nn.SiLU(), nn.LeakyReLU(), nn.Identity(), Adds()):
        assert not found(shifted(-8.0, follower), "BN108")


def test_bn109_hits_a_beta_far_above_zero():
    (finding,) = found(shifted(8.0, nn.ReLU(inplace=True)), "BN109")
    assert finding.channels == (4,)


def test_bn109_misses_other_activations_and_ordinary_channels():
    assert not found(shifted(8.0, nn.SiLU()), "BN109")
    assert not found(shifted(1.0, nn.ReLU()), "BN109")


def test_bn110_hits_training_in_sixteen_bits():
    model = small().bfloat16().train()
    model(torch.randn(4, 3, 8, 8, dtype=torch.bfloat16))
    assert [finding.severity for finding in found(model, "BN110", input_size=(3, 8, 8))] == ["warning"]
    assert [finding.severity for finding in found(model.eval(), "BN110")] == ["info"]
    half = nn.BatchNorm2d(3)
    half.running_var.fill_(1e5)
    assert [finding.severity for finding in found(half.half(), "BN110")] == ["error"]


def test_bn110_misses_autocast():
    model = small().train()
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(4, 3, 8, 8))
    assert not found(model, "BN110")


def test_bn111_hits_a_far_offset():
    model = nn.BatchNorm1d(4, momentum=None)
    for _ in range(3):
        model(5000 + torch.randn(32, 4))
    (finding,) = found(model, "BN111")
    assert (finding.severity, finding.evidence["num_channels"]) == ("info", 4)
    assert 4000 < finding.evidence["mean_over_std"] < 7000


def test_bn111_misses_raw_pixels_and_channels_of_no_variance():
    model = nn.BatchNorm2d(3, momentum=None)
    model(torch.randint(0, 256, (8, 3, 8, 8)).float())
    assert not found(model, "BN111")
    model.running_var.fill_(1e-10)
    assert not found(model, "BN111")


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = small(), nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))

    def forward(self, x):
        return checkpoint(self.second, self.first(x), use_reentrant=False)


def test_bn112_hits_activation_checkpointing():
    model = train(Checkpointed(), 1)
    (finding,) = found(model, "BN112")
    assert (finding.severity, finding.path) == ("warning", "second.1")
    assert finding.evidence["num_batches_tracked"] == 2


def test_bn112_misses_frozen_layers_and_old_checkpoints():
    model = nn.Sequential(small(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    train(model, 4)
    model[0].eval()
    for _ in range(4):
        model[2](torch.randn(4, 8, 4, 4))
    assert [finding.severity for finding in found(model, "BN112")] == ["info"]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked.zero_()
    assert not found(model, "BN112")


def test_bn112_only_tells_of_a_head_that_was_added_later():
    body = train(nn.Sequential(*small()), 5)
    model = train(nn.Sequential(*body, nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)), 3)
    assert [int(model[index].num_batches_tracked) for index in (1, 4)] == [8, 3]
    assert [finding.severity for finding in found(model, "BN112")] == ["info"]
