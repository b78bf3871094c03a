"""What merging the parts of a thousand processes costs, and what a second process is worth."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import torch
from torch.utils.data import Dataset
from torchvision.models import get_model

import bninspect
from bninspect.inspection.population.part import Part, save
from bninspect.inspection.population.tree import Tree

ROOT = Path(__file__).parents[2]
PARTS = 1000
SECONDS, MEGABYTES = 20, 300
MERGE = """
import sys, time, torch, bninspect

def peak():  # of this process alone: what getrusage tells begins at the parent's
    status = open("/proc/self/status").read()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024

before, start = peak(), time.process_time()
report = bninspect.merge(sys.argv[1])
print(time.process_time() - start, peak() - before, report.num_images)
"""


class Images(Dataset):
    """So many images that hold their number."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return torch.full((3, 64, 64), index / self.count) + torch.linspace(0, 1, 64)


def test_merging_a_thousand_parts_of_resnet50(report, tmp_path):
    """One part is measured, and stands in for the others under their numbers."""
    model = get_model("resnet50", weights=None).eval()
    bninspect.population(model, Images(2 * PARTS), tmp_path, rank=0, world_size=PARTS, batch_size=2)
    (path,) = tmp_path.glob("part-*")
    part = Part(path)
    (_, _, node), layers = *part.nodes(), tuple(part.layers().values())
    for rank in range(1, PARTS):
        tree = Tree()
        tree.add(0, rank, node)
        header = msgspec.structs.replace(part.header, rank=rank, layers=layers)
        save(tmp_path / path.name.replace("-00000-", f"-{rank:05d}-"), header, tree)
    done = subprocess.run(
        [sys.executable, "-c", MERGE, tmp_path],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, megabytes, images = map(float, done.stdout.split())
    assert images == 2 * PARTS
    report("merge of 1,000 parts of resnet50, seconds", seconds, SECONDS)
    report("merge of 1,000 parts of resnet50, MB beside import torch", megabytes, MEGABYTES)


NETS = """
import torch
from torchvision.models import resnet18
model = resnet18(weights=None).eval()
data = torch.randn(512, 3, 96, 96)
"""


def test_two_processes_against_one(tmp_path):
    """Images per second, without the start of the processes; only where two cores are free, so reported, not bound."""
    (tmp_path / "net.py").write_text(NETS)
    command = [
        sys.executable,
        "-m",
        "bninspect",
        "stats",
        "net.py:model",
        "--batch",
        "net.py:data",
        "--batch-size",
        "16",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    speeds = []
    for size in (1, 2):
        workers = [
            subprocess.Popen(
                [*command, "--parts", f"run{size}"],
                cwd=tmp_path,
                env=environment | {"RANK": str(rank), "WORLD_SIZE": str(size)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(size)
        ]
        told = [worker.communicate()[1] for worker in workers]
        speeds.append(size * float(re.findall(r"([\d,]+) images/s", told[0])[-1].replace(",", "")))
    print(f"\n  two processes measure {speeds[1] / speeds[0]:.2f} times as many images a second as one")
