"""BN5xx: each rule on loops that have the fault, and on loops that are healthy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loops import alarms_of, batch, block, net, step, told
from torch import nn
from torch.utils.checkpoint import checkpoint

from bninspect.rules import catalogue
from bninspect.rules.step_facts import Apart, StepFacts

MAKES_UP = 1 - 0.9**0.5  # the momentum that two updates need to forget as one of 0.1 does


class Checkpointed(nn.Module):
    """Its first block runs again in the backward."""

    def __init__(self):
        super().__init__()
        self.first, self.rest = block(3, 8), nn.Sequential(block(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.rest(checkpoint(self.first, x, use_reentrant=False)))


def twice(model, optimizer, images, labels):
    """A second view of the same images goes through the model."""
    model(images.flip(3))
    step(model, optimizer, images, labels)


def test_bn501_hits_a_checkpointed_block():
    (alarm,) = alarms_of(Checkpointed(), 5)
    assert (alarm.code, alarm.step, [place.path for place in alarm.layers]) == ("BN501", 2, ["first.1"])
    assert alarm.layers[0].evidence["updates"] == 2
    assert alarm.layers[0].evidence["momentum_to_make_up"] == pytest.approx(MAKES_UP)
    assert alarm.layers[0].told == "2 updates a step at momentum 0.1; 0.0513 makes up for it"


def test_bn501_makes_up_for_the_second_update():
    """With the momentum it names, the averages are those of one update by 0.1 for batches that are alike."""
    once, again = nn.BatchNorm1d(1), nn.BatchNorm1d(1, momentum=MAKES_UP)
    for _ in range(3):
        x = torch.randn(64, 1)
        once(x), again(x), again(x)
    torch.testing.assert_close(again.running_var, once.running_var)


def test_bn501_hits_two_forwards_a_step():
    (alarm,) = alarms_of(net(), 5, each=twice)
    assert (alarm.code, alarm.step, alarm.layers) == ("BN501", 2, ())
    assert alarm.evidence["updates"] == 2
    assert alarm.told.startswith("2 updates a step at momentum 0.1")


def test_bn501_misses_gradients_that_are_accumulated():
    assert alarms_of(net(), 5, each=twice, accumulation=2) == ()


def test_bn501_misses_a_step_that_a_gradient_scaler_skipped():
    model = net()

    def skipped(number):
        if number % 3 == 0:
            model(batch()[0])

    assert alarms_of(model, 9, skipped) == ()


class Auxiliary(nn.Module):
    """A branch beside the net, which runs only while ``on``."""

    def __init__(self):
        super().__init__()
        self.main, self.side, self.on = net(), net(), True

    def forward(self, x):
        return self.main(x) + self.side(x) if self.on else self.main(x)


def test_bn502_hits_a_branch_that_is_no_longer_run(one_thread):
    model = Auxiliary()

    def act(number):
        model.on = number < 10

    alarms = alarms_of(model, 115, act)
    assert told(alarms) == {"BN502": (109, ["side.0.1", "side.1.1"])}
    assert alarms[0].layers[0].told == "for 100 steps"


def test_bn502_misses_a_branch_that_never_ran_and_one_that_runs_at_random(one_thread):
    model = Auxiliary()
    model.on = False
    assert alarms_of(model, 105) == ()

    def act(number):
        model.on = number % 20 == 0

    assert alarms_of(model, 105, act) == ()


def test_bn503_hits_a_model_that_was_left_in_eval_mode():
    model = net()

    def validate(number):
        if number == 4:
            model.eval()

    alarms = alarms_of(model, 6, validate)
    assert told(alarms) == {"BN503": (4, ["0.1", "1.1"])}
    assert alarms[0].severity == "warning"


def test_bn503_hits_a_model_that_trains_in_eval_mode():
    (alarm,) = alarms_of(net().eval(), 3)
    assert (alarm.code, alarm.step, alarm.severity, alarm.message) == (
        "BN503",
        1,
        "warning",
        "the model trains in eval mode",
    )


def test_bn503_misses_layers_that_are_in_eval_mode_on_purpose():
    """Frozen with their gamma and beta: nothing. In eval mode from the first step on: only told."""
    model = net()
    model[0].requires_grad_(requires_grad=False).eval()
    assert alarms_of(model, 3) == ()
    model = net()
    model[0].eval()
    (alarm,) = alarms_of(model, 3)
    assert (alarm.code, alarm.severity, [place.path for place in alarm.layers]) == ("BN503", "info", ["0.1"])


def test_bn504_hits_weights_that_jump():
    model = net()

    def act(number):
        if number == 40:
            with torch.no_grad():
                model[1][0].weight.mul_(30)

    alarms = alarms_of(model, 50, act)
    code, (at, paths) = next(iter(told(alarms).items()))
    assert (code, paths) == ("BN504", ["1.1"])
    assert 40 <= at <= 42
    assert alarms[0].layers[0].evidence["var"] > 100 * alarms[0].layers[0].evidence["var_before"]


def test_bn504_misses_small_variances_that_grow():
    model = net()
    with torch.no_grad():
        model[0][0].weight.mul_(1e-3)

    def act(number):
        if number == 40:
            with torch.no_grad():
                model[0][0].weight.mul_(50)

    assert alarms_of(model, 50, act, lr=0.0) == ()


def apart(d, r, *, synchronised=False, unequal=True):
    """A step of one layer, whose processes are so far apart."""
    one, yes = np.ones(1), np.array([True])
    return StepFacts(
        step=50,
        paths=("bn",),
        num_features=one,
        momentum=0.1 * one,
        training=yes,
        began=yes,
        learning=yes,
        tracking=yes,
        synchronised=np.array([synchronised]),
        accumulation=1,
        updates=one,
        repeated=0 * one,
        still=0 * one,
        var=one,
        var_before=one,
        var_first=one,
        apart=Apart(d=d * one, r=r * one, unequal=np.array([unequal])),
    )


def test_bn505_hits_processes_that_are_far_apart():
    """Real processes: tests/inspection/watch/test_processes.py."""
    for facts in (apart(0.6, 1.0), apart(0.0, 1.6)):
        (hit,) = catalogue()["BN505"](facts)
        assert (hit.place.path, hit.message) == ("bn", "processes are given different data")
    (hit,) = catalogue()["BN505"](apart(0.001, 1.0, synchronised=True))
    assert hit.message == "a SyncBatchNorm layer has other statistics on other processes"


def test_bn505_misses_processes_that_differ_by_chance():
    assert list(catalogue()["BN505"](apart(0.4, 1.4))) == []
    assert list(catalogue()["BN505"](apart(0.0, 1.0, synchronised=True, unequal=False))) == []
