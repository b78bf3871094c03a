"""On a GPU: nobody waits for it within a step, and training is the same to the bit."""

from __future__ import annotations

import json

import pytest
import torch
from loops import batch, net, step
from torch import nn

import bninspect

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def trained(watched, path=None):
    torch.manual_seed(7)
    model = net(0.3).cuda()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    data = [[part.cuda() for part in batch()] for _ in range(20)]
    step(model, optimizer, *data[0])
    watch = bninspect.watch(model, every=1, to=path) if watched else None
    if watch:
        watch.__enter__()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for images, labels in data:
            loss = step(model, optimizer, images, labels)
            if watch:
                watch.step(loss=loss)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    if watch:
        watch.__exit__(None, None, None)
    return [value.cpu() for value in (*model.state_dict().values(), loss, torch.cuda.get_rng_state())]


def test_no_step_waits_and_training_is_the_same_to_the_bit(tmp_path):
    torch.backends.cudnn.deterministic = True
    try:
        without, watched = trained(False), trained(True, tmp_path / "run.jsonl")
    finally:
        torch.backends.cudnn.deterministic = False
    assert all(torch.equal(one, other) for one, other in zip(without, watched, strict=True))
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    records = [line for line in lines if line["event"] == "record"]
    assert [record["step"] for record in records] == list(range(1, 21))
    assert all(record["layers"]["updates"] == [1, 1] for record in records)
    assert all(record["scalars"]["loss"] > 0 for record in records)


def test_an_alarm_comes_one_step_later():
    model, called = nn.Sequential(nn.BatchNorm1d(4)).cuda(), []

    def two_steps():
        with bninspect.watch(model, on_alarm=called.append) as watch:
            model(torch.full((8, 4), float("nan"), device="cuda"))
            watch.step()
            assert called == []
            model(torch.randn(8, 4, device="cuda"))
            watch.step()
            assert [alarm.step for alarm in called] == [1]

    with pytest.warns(match="step 1: BN101"):
        two_steps()
