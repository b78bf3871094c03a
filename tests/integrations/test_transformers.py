"""The callback in a real Trainer of Hugging Face, with a real ResNet of theirs."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from loops import batch

transformers = pytest.importorskip("transformers", reason="needs the extra integrations")
pytest.importorskip("accelerate", reason="needs the extra integrations")

from bninspect.integrations import TransformersWatch  # noqa: E402  # there is nothing to test without it

pytestmark = pytest.mark.filterwarnings("ignore")


class Data(torch.utils.data.Dataset):
    def __init__(self):
        self.images, self.labels = batch(64)

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


def train(tmp_path, callback, **options):
    logging.getLogger("transformers").setLevel(logging.ERROR)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=4
    )
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=8,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        use_cpu=True,
        **options,
    )
    model = transformers.ResNetForImageClassification(config)
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=Data(), callbacks=[callback])
    trainer.train()
    return model


def test_a_trainer_is_watched_into_its_folder(tmp_path):
    callback = TransformersWatch(every=2)
    model = train(tmp_path, callback, num_train_epochs=2, gradient_accumulation_steps=2)
    lines = [json.loads(line) for line in (tmp_path / "bninspect.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "record"] == [2, 4, 6, 8]
    assert lines[1]["layers"]["updates"] == [4] * len(lines[0]["layers"])
    assert None not in lines[1]["layers"]["weight_grad"]
    paths = [path for path, module in model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert [layer["path"] for layer in lines[0]["layers"]] == paths
    assert callback.watch.alarms == ()
    assert lines[-1]["event"] == "end"
