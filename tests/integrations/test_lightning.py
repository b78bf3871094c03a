"""The callback in a real trainer of Lightning."""

from __future__ import annotations

import csv
import json
import warnings

import pytest
import torch
from loops import batch, net
from torch import nn
from torch.utils.data import DataLoader

lightning = pytest.importorskip("lightning.pytorch", reason="needs the extra integrations")

from bninspect.integrations import LightningWatch  # noqa: E402  # there is nothing to test without it

pytestmark = pytest.mark.filterwarnings("ignore")


class Module(lightning.LightningModule):
    def __init__(self, fails_at=None):
        super().__init__()
        self.net, self.fails_at = net(), fails_at

    def training_step(self, batch, number):
        if number == self.fails_at:
            raise RuntimeError("enough")
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def validation_step(self, batch, number):
        images, labels = batch
        self.log("loss", nn.functional.cross_entropy(self.net(images), labels))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05)


def fit(tmp_path, module, callbacks, **options):
    data = [tuple(part[0] for part in batch(1)) for _ in range(96)]
    trainer = lightning.Trainer(
        default_root_dir=tmp_path,
        max_epochs=2,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=callbacks,
        **options,
    )
    loader = DataLoader(data, batch_size=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, loader, loader)
    return trainer


def events(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_steps_are_those_of_the_optimizer(tmp_path):
    callback = LightningWatch(every=2, to=tmp_path / "run.jsonl")
    fit(tmp_path, Module(), [callback], accumulate_grad_batches=4, logger=False)
    lines = events(tmp_path / "run.jsonl")
    assert [line["step"] for line in lines if line["event"] == "record"] == [2, 4, 6]
    assert lines[0]["accumulation"] == 4
    assert lines[1]["layers"]["updates"] == [8, 8]
    assert None not in lines[1]["layers"]["weight_grad"]
    assert [layer["path"] for layer in lines[0]["layers"]] == ["net.0.1", "net.1.1"]
    assert callback.watch.alarms == ()  # validation in between is no training in eval mode
    assert lines[-1] == {"event": "end", "step": 6, "time": lines[-1]["time"], "error": None}


def test_figures_go_to_the_loggers_of_the_trainer(tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path)
    fit(tmp_path, Module(), [LightningWatch(every=6)], logger=logger)
    logger.save()
    rows = list(csv.DictReader(next(tmp_path.rglob("metrics.csv")).open()))
    told = [(int(row["step"]), float(row["bn/net.0.1/d_max"])) for row in rows if row["bn/net.0.1/d_max"]]
    assert [step for step, _ in told] == [6, 12, 18, 24]
    assert all(value > 0 for _, value in told)


def test_a_training_that_fails_is_recorded_as_such(tmp_path):
    with pytest.raises(RuntimeError, match="enough"):
        fit(tmp_path, Module(fails_at=5), [LightningWatch(every=2, to=tmp_path / "run.jsonl")], logger=False)
    assert events(tmp_path / "run.jsonl")[-1]["error"] == "RuntimeError: enough"
