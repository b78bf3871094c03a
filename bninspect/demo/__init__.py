"""A network that is trained in seconds, with a fault built in: something to look at where there is nothing yet."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bninspect.errors import InputError
from bninspect.text import printable

if TYPE_CHECKING:
    from torch import nn

NUM_IMAGES, _BATCH = 3840, 32
_NAMES = ("net.py", "best.pt", "run.jsonl")


class Demo(NamedTuple):
    """The accuracy on images that were not trained on, by the statistics of their batch and by the running ones."""

    by_batch: float
    by_running: float


def prepare(folder: Path) -> None:
    """Make the folder.

    Raises:
        InputError: a file of that name is there already, or the folder cannot be made.
    """
    there = next((name for name in _NAMES if (folder / name).exists()), None)
    if there is not None:
        raise InputError(f"{printable(str(folder / there))} exists: give a folder that is new or empty")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {printable(str(folder))} cannot be made: {error.strerror}") from error


def make(folder: Path) -> Demo:
    """Train the network of ``net.py``; put that file, ``best.pt`` and ``run.jsonl`` into a folder.

    Raises:
        InputError: as :func:`prepare` does.
    """
    prepare(folder)
    import torch

    from bninspect.demo import net as source

    shutil.copyfile(Path(source.__file__), folder / "net.py")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a second one has nothing to do in so small a network
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = source.net()
            _train(model, source.images(NUM_IMAGES, seed=0), folder / "run.jsonl")
            torch.save(model.state_dict(), folder / "best.pt")
            images, labels = source.images(256, seed=1).tensors
            return Demo(*(_accuracy(model.train(mode), images, labels) for mode in (True, False)))
    finally:
        torch.set_num_threads(threads)


def _train(model: nn.Module, data: Any, record: Path) -> None:
    import torch

    import bninspect

    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    with bninspect.watch(model, optimizer, every=10, to=record):
        for images, labels in torch.utils.data.DataLoader(data, batch_size=_BATCH):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def _accuracy(model: nn.Module, images: Any, labels: Any) -> float:
    """In the model's present mode; its statistics are as before."""
    import copy

    import torch

    with torch.no_grad():
        return float((copy.deepcopy(model)(images).argmax(1) == labels).float().mean())
