"""What a command costs as a whole process, against the imports that it cannot do without."""

from __future__ import annotations

import pytest

TERMINAL = ["-c", "import click, rich.console, rich.table"]
TORCH = ["-c", "import torch, torchvision"]


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["--version"], 0), (["summary"], 2)])
def test_answers_without_torch(against, report, arguments, code):
    cpu, _ = against(["-m", "bninspect", *arguments], TERMINAL, runs=9, code=code)
    report(f"bninspect {' '.join(arguments)}, CPU against click and rich", cpu, 2.0)


@pytest.mark.parametrize(
    ("model", "size", "bound"), [("resnet18", "3,418,418", 1.12), ("regnet_y_128gf", "3,224,224", 1.25)]
)
def test_summary(against, report, model, size, bound):
    cpu, memory = against(["-m", "bninspect", "summary", model, "--input", size], TORCH)
    report(f"summary {model}, CPU against import torch, torchvision", cpu, bound)
    report(f"summary {model}, peak memory against the same", memory, 1.05)
