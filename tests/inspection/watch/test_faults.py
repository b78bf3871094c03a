"""Faults of public reports in real training loops: each is told at its step, by the code of its rule, and once."""

from __future__ import annotations

import pytest
import torch
from loops import alarms_of, batch, net, step, told
from torch import nn


def test_an_overflow_at_step_37_is_told_at_step_37(one_thread):
    """What a gradient scaler does: the step is skipped, training goes on, and the averages never lose it."""
    model = net()

    def each(model, optimizer, images, labels):
        each.number += 1
        if each.number == 37:
            images = images.clone()
            images[0, 0, 0, 0] = 7e4  # beyond float16
            images = images.half().float()
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        if not torch.isfinite(loss):
            optimizer.zero_grad()
        optimizer.step()

    each.number = 0
    (alarm,) = alarms_of(model, 60, each=each)
    assert (alarm.code, alarm.step, alarm.severity) == ("BN101", 37, "error")
    assert [place.path for place in alarm.layers] == ["0.1", "1.1"]
    assert all(place.channels is None for place in alarm.layers)  # all of them
    assert alarm.layers[0].told == "8 of 8 channels"


def test_a_frozen_backbone_in_train_mode(one_thread):
    model = net()
    model[0].requires_grad_(requires_grad=False)
    (alarm,) = alarms_of(model, 5)
    assert (alarm.code, alarm.step, [place.path for place in alarm.layers]) == ("BN203", 1, ["0.1"])


def test_a_backbone_that_is_frozen_later(one_thread):
    model = net()

    def act(number):
        if number == 4:
            model[0].requires_grad_(requires_grad=False)

    assert told(alarms_of(model, 8, act)) == {"BN203": (4, ["0.1"])}


def test_a_momentum_of_another_framework(one_thread):
    model = net()
    model[1][1].momentum = 0.99
    (alarm,) = alarms_of(model, 5)
    assert (alarm.code, alarm.step, [place.path for place in alarm.layers]) == ("BN205", 1, ["1.1"])


def test_a_learning_rate_that_explodes(one_thread):
    model = net()

    def each(model, optimizer, images, labels):
        each.number += 1
        if each.number > 20:
            optimizer.param_groups[0]["lr"] = 100.0
        step(model, optimizer, images, labels)

    each.number = 0
    alarms = alarms_of(model, 60, each=each)
    code, (at, paths) = next(iter(told(alarms).items()))
    assert (code, paths) == ("BN504", ["1.1"])  # the images before the first layer are as they were, within one step
    assert 21 < at < 30


def test_tracking_that_is_switched_off(one_thread):
    model = net()

    def act(number):
        if number == 3:
            model[0][1].track_running_stats = False

    alarms = alarms_of(model, 6, act)
    assert told(alarms) == {"BN201": (3, ["0.1"])}
    assert alarms[0].severity == "error"


def test_a_layer_whose_input_is_gone(one_thread):
    """Its running variance decays to nothing: a constant input, for 300 steps."""
    model = net()
    with torch.no_grad():
        model[1][0].weight.zero_()
    model[1][0].weight.requires_grad = False
    alarms = alarms_of(model, 300)
    code, (at, paths) = next(iter(told(alarms).items()))
    assert (code, paths) == ("BN103", ["1.1"])
    assert at == 263  # 0.9 ** 263 < 1e-12


@pytest.mark.parametrize("every", [1, 50])
def test_a_gamma_that_is_switched_off(one_thread, every):
    model, others = net(), torch.arange(8) != 2
    model[0][1].weight.register_hook(lambda grad: grad * others)

    def act(number):
        if number == 5:
            model[0][1].weight.data[2] = 1e-7

    (alarm,) = alarms_of(model, 40, act, every=every)
    assert alarm.code == "BN107"
    assert (alarm.layers[0].path, alarm.layers[0].channels) == ("0.1", (2,))
    assert alarm.step == 24  # after twenty steps: a gamma that changes its sign passes by 0


def test_alarms_come_at_their_step_whatever_every_is(one_thread):
    for every in (1, 1000):
        model = net()

        def act(number, model=model):
            if number == 7:
                model[0][1].bias.data[1] = float("nan")

        assert told(alarms_of(model, 9, act, every=every))["BN101"][0] == 7


def test_each_layer_is_told_once_for_each_code(one_thread):
    model = net()

    def act(number):
        if number in (3, 5):
            model[number // 5][1].running_var[0] = float("inf")

    alarms = alarms_of(model, 9, act)
    assert [(alarm.code, alarm.step, [place.path for place in alarm.layers]) for alarm in alarms] == [
        ("BN101", 3, ["0.1"]),
        ("BN101", 5, ["1.1"]),
    ]


def test_bfloat16_layers_and_float64_layers(one_thread):
    for dtype in (torch.bfloat16, torch.float64):
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)).to(dtype)

        def each(model, optimizer, images, labels, dtype=dtype):
            step(model, optimizer, images.mean((2, 3)).to(dtype), labels)

        assert alarms_of(model, 20, each=each) == ()
        model[1].running_mean[0] = float("nan")
        assert told(alarms_of(model, 2, each=each)) == {"BN101": (0, ["1"])}


def test_a_layer_that_is_taken_out_in_the_block_stays_as_it_was(one_thread):
    model = net()

    def act(number):
        if number == 3:
            model[1][1] = nn.Identity()

    assert alarms_of(model, 6, act) == ()


def test_healthy_when_a_step_has_no_update(one_thread):
    model = net()

    def each(model, optimizer, images, labels):
        each.number += 1
        if each.number % 2:
            step(model, optimizer, *batch())
        else:
            optimizer.step()

    each.number = 0
    assert alarms_of(model, 20, each=each) == ()
