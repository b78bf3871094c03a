"""The screenshot in README: the page of a training run that goes wrong twice, in a real browser."""

from __future__ import annotations

import base64
import contextlib
import io
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional
from torchvision import models

import bninspect
from bninspect import cli
from bninspect.errors import WatchWarning

sys.path.insert(0, str(Path(__file__).parent))
import browser  # a module beside this one

PICTURE = Path(__file__).parents[1] / ".github" / "page.png"
WIDTH, FINE = 880, 1.5  # as wide as README is shown, and so many pixels for one of its
COLOURS = 64  # which a picture of lines needs, and which keep the file small
STEPS, FROZEN, BROKEN = 90, 50, 70


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        train(Path("run.jsonl"))
        assert cli.run(["report", "run.jsonl", "-o", "page.html"]) == 0
        taken = Image.open(io.BytesIO(shot(Path("page.html").absolute()))).convert("RGB")
        taken.quantize(COLOURS, dither=Image.Dither.NONE).save(PICTURE, optimize=True)


def train(path: Path) -> None:
    """A part of the network is put into eval mode by mistake, and later a variance overflows."""
    torch.manual_seed(0)
    model = models.resnet34(num_classes=4)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    with warnings.catch_warnings(), bninspect.watch(model, optimizer, every=1, to=path):
        warnings.simplefilter("ignore", WatchWarning)
        for number in range(STEPS):
            if number == FROZEN:
                model.layer3.eval()
            if number == BROKEN:
                model.layer2[1].bn2.running_var[3] = torch.inf
            labels = torch.randint(4, (8,))
            images = torch.randn(8, 3, 32, 32) + labels.view(-1, 1, 1, 1)
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()


def shot(page: Path) -> bytes:
    """What stands at the top, to the end of the first picture."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        opened = browser.Browser(profile)
        tab = browser.Page(opened, WIDTH)
        tab.open(page.as_uri())
        end = tab.run("document.querySelector('.plot').getBoundingClientRect().bottom + scrollY")
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": end, "scale": FINE}
        data = tab.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
        opened.close()
    return base64.b64decode(data)


if __name__ == "__main__":
    main()
