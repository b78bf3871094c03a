"""Image files: one, a folder, or a tree of folders by class; sorted by path, read by PIL, streamed in pieces."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bninspect.batches import Batch, BatchOptions
from bninspect.batches.python import streamed
from bninspect.errors import SourceError
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

SCHEME = "images"
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"}
_OTHERS = {".pt", ".pth", ".npy", ".npz", ".safetensors", ".bin"}  # a folder so named is a mistake, and said to be
_PIECE = 32  # images, where --batch-size does not say


def accepts(text: str) -> bool:
    """A folder, or what is spelled like an image."""
    suffix = Path(text).suffix.lower()
    if suffix in _SUFFIXES:
        return True
    return suffix not in _OTHERS and os.path.isdir(text)  # noqa: PTH112 - takes any text, a NUL as well


def load(value: str, options: BatchOptions) -> Batch:
    """The images of a file or of a folder and those below it, by the transforms named, or the model's own.

    Raises:
        SourceError: there are none, the transforms are not given or not known; while it streams, an image is damaged.
    """
    from torch.utils.data import DataLoader

    shown = printable(value)
    paths = _paths(value, shown)
    size = options.size or _PIECE
    name, transforms = _transforms(options, shown)
    images = _Images(paths, transforms)
    loader: Any = DataLoader(images, batch_size=size, num_workers=options.workers, collate_fn=_stacked)  # type: ignore[arg-type]
    kind = f"{'image' if len(paths) == 1 else 'images'}, {name}"
    if options.share:
        return Batch(name=value, kind=kind, data=loader, num_images=len(paths), pick=_checked)
    pieces = streamed(value, kind, map(_checked, loader), options, again=lambda: map(_checked, loader)).data
    number = len(paths) if options.max_batches is None else min(len(paths), size * options.max_batches)
    return Batch(name=value, kind=kind, data=pieces, num_images=number)


def _paths(value: str, shown: str) -> list[Path]:
    try:
        kind = Path(value).stat().st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no file can have such a name"
        pattern = " (a pattern is none: give the folder)" if set(value) & set("*?[") else ""
        raise SourceError(f"the batch {shown} cannot be read: {reason}{pattern}") from error
    if stat.S_ISREG(kind):
        return [Path(value)]
    if not stat.S_ISDIR(kind):
        raise SourceError(f"{shown} is no regular file and no folder: give an image or a folder of images")
    found = sorted(path for path in Path(value).rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    if not found:
        raise SourceError(f"the folder {shown} holds no images ({', '.join(sorted(_SUFFIXES))})")
    return found


def _transforms(options: BatchOptions, shown: str) -> tuple[str, Callable[[Any], Tensor]]:
    if options.transforms is not None:
        return options.transforms, _named(options.transforms)
    if options.own is not None:
        return options.own()
    raise SourceError(
        f"the images of {shown} need the transforms of the model's training, which are not known: add --transforms "
        "NAME, such as ResNet50_Weights.DEFAULT (models of timm and trained weights of torchvision have their own)"
    )


def _named(name: str) -> Callable[[Any], Tensor]:
    from torchvision import models

    try:
        made: Callable[[Any], Tensor] = models.get_weight(name).transforms()
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise SourceError(
            f"torchvision has no transforms {printable(name)}: give the full name of weights, such as "
            "ResNet50_Weights.IMAGENET1K_V1"
        ) from error
    return made


class _Images:
    """Images by number, for a DataLoader; in place of one that cannot be read stands the reason."""

    def __init__(self, paths: list[Path], transforms: Callable[[Any], Tensor]) -> None:
        self.paths = paths
        self.transforms = transforms

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor | str:
        import warnings

        from PIL import Image

        try:
            with warnings.catch_warnings(), Image.open(self.paths[index]) as image:
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                return self.transforms(image.convert("RGB"))
        except (Exception, Image.DecompressionBombWarning) as error:
            return f"the image {printable(str(self.paths[index]))} cannot be read: {type(error).__name__}"


def _stacked(images: list[Tensor | str]) -> Tensor | str:
    import torch

    if damaged := [image for image in images if isinstance(image, str)]:
        return damaged[0]
    try:
        return torch.stack(images)  # type: ignore[arg-type]
    except RuntimeError:
        return "the transforms leave images of different sizes, which are no batch"


def _checked(piece: Tensor | str) -> Tensor:
    if isinstance(piece, str):
        raise SourceError(piece)
    return piece
