"""Changes of an input that may put its preparation right: scales, the means of known data sets, colours, axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Change = Callable[[Tensor], Tensor]

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE = 103.939, 116.779, 123.68  # of blue, green and red, in [0, 255]
_MNIST = 0.1307, 0.3081
_COLOURS = (1, 3, 4)  # channels of an image: grey, RGB, RGBA
_BY_COLOUR = "ImageNet's mean and standard deviation", "Caffe: BGR in [0, 255] less its mean"
_TRANSPOSE = "transpose [N, H, W, C], which was only reshaped to [N, C, H, W]"
_EDGE = 0.02  # by which images may leave [0, 1], where they were resized


def known(x: Tensor) -> dict[str, Tensor]:
    """Changes by known numbers: of any input; of images, where it looks like some."""
    axis = _colours(x)
    if axis is None:
        return _scaled(x)
    found = {**_scaled(x), **_pictures(x, axis)}
    for name, changed in _prepared(x, axis).items():
        if not any(_same(changed, other) for other in found.values()):
            found[name] = changed
    return found


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a[0], b[0]) and torch.allclose(a, b)  # one image tells most of them apart


def fitted(x: Tensor) -> dict[str, Tensor]:
    """Changes whose numbers are taken from the input itself, and which therefore serve more faults than one."""
    feature = x.dim() - 1 if x.dim() == 2 or _colours(x) == 3 else 1
    others = [axis for axis in range(x.dim()) if axis != feature]
    found = {"standardise each feature by its mean and standard deviation over the data": _standard(x, others)}
    if x.dim() > 1 and x[0].numel() > 1:
        own = "standardise each sample by its own mean and standard deviation"
        found[own] = _standard(x, list(range(1, x.dim())))
    return found


def _standard(x: Tensor, axes: list[int]) -> Tensor:
    var, mean = torch.var_mean(x, axes, keepdim=True, correction=0)
    return (x - mean) / torch.where(var > 0, var, torch.ones_like(var)).sqrt()


def _colours(x: Tensor) -> int | None:
    """The axis of the channels, if this looks like images; channels first if both may be."""
    return next((axis for axis in (1, 3) if x.dim() == 4 and x.shape[axis] in _COLOURS), None)


def _scaled(x: Tensor) -> dict[str, Tensor]:
    """Changes of any input by known numbers: bytes, 16-bit sound, logarithms."""
    found = {
        "divide by 255": x / 255,
        "multiply by 255": x * 255,
        "divide by 32768": x / 32768,
        "multiply by 32768": x * 32768,
        "from [0, 1] to [-1, 1]": x * 2 - 1,
        "from [-1, 1] to [0, 1]": (x + 1) / 2,
    }
    if bool((x > 0).all()):
        return {**found, "take the logarithm": x.log(), "take the exponential": x.exp()}
    if bool((x >= 0).all()):
        return {**found, "take the logarithm of 1 + x": x.log1p(), "take the exponential": x.exp()}
    return {**found, "take the exponential": x.exp()}


def _pictures(x: Tensor, axis: int) -> dict[str, Tensor]:
    """Changes of images by known numbers, whatever range they are in."""
    colours = x.shape[axis]
    if colours == 1:
        mean, std = _MNIST
        return {
            "subtract MNIST's mean and divide by its standard deviation": (x - mean) / std,
            "undo MNIST's mean and standard deviation": x * std + mean,
            "divide by 255, then MNIST's mean and standard deviation": (x / 255 - mean) / std,
        }
    swapped = {"swap RGB and BGR": _swap(x, axis)}
    if colours == 4:
        return swapped
    means, stds = (_along(values, x, axis) for values in _IMAGENET)
    return {
        "subtract ImageNet's mean and divide by its standard deviation": (x - means) / stds,
        "undo ImageNet's mean and standard deviation": x * stds + means,
        "divide by 255, then ImageNet's mean and standard deviation": (x / 255 - means) / stds,
        "undo ImageNet's mean and standard deviation, then multiply by 255": (x * stds + means) * 255,
        **swapped,
    }


def _prepared(x: Tensor, axis: int) -> dict[str, Tensor]:
    """Changes of images whose present preparation their range tells: to another one, or of the images before it."""
    found = {_TRANSPOSE: _transposed(x)} if axis == 1 and x.shape[axis] > 1 else {}
    ways = _ways(x, axis)
    for name, (undo, redo) in ways.items():
        image = undo(x)
        if not -_EDGE <= float(image.min()) <= float(image.max()) <= 1 + _EDGE:
            continue
        found[f"invert the images before they are prepared for {name}"] = redo(1 - image)
        if name in _BY_COLOUR:
            found[f"swap RGB and BGR before the images are prepared for {name}"] = redo(_swap(image, axis))
        if name in _BY_COLOUR and axis == 1:
            found[f"{_TRANSPOSE}, before the images are prepared for {name}"] = redo(_transposed(image))
        for other, (_, prepare) in ways.items():
            if other != name:
                found[f"prepare the images for {other}, and not for {name}"] = prepare(image)
    return found


def _ways(x: Tensor, axis: int) -> dict[str, tuple[Change, Change]]:
    """How images in [0, 1] are prepared: by name, how it is undone and done."""
    ways: dict[str, tuple[Change, Change]] = {
        "[0, 1]": (lambda x: x, lambda x: x),
        "[-1, 1]": (lambda x: (x + 1) / 2, lambda x: 2 * x - 1),
        "[0, 255]": (lambda x: x / 255, lambda x: 255 * x),
    }
    if x.shape[axis] == 1:
        mean, std = _MNIST
        ways["MNIST's mean and standard deviation"] = (lambda x: x * std + mean, lambda x: (x - mean) / std)
    if x.shape[axis] == 3:
        means, stds = (_along(values, x, axis) for values in _IMAGENET)
        caffe = _along(_CAFFE, x, axis)
        ways[_BY_COLOUR[0]] = (lambda x: x * stds + means, lambda x: (x - means) / stds)
        ways[_BY_COLOUR[1]] = (
            lambda x: _swap(x + caffe, axis) / 255,
            lambda x: _swap(255 * x, axis) - caffe,
        )
    return ways


def _along(values: tuple[float, ...], x: Tensor, axis: int) -> Tensor:
    return torch.tensor(values, dtype=x.dtype, device=x.device).view([3 if index == axis else 1 for index in range(4)])


def _swap(x: Tensor, axis: int) -> Tensor:
    return x.index_select(axis, torch.tensor([2, 1, 0, *range(3, x.shape[axis])], device=x.device))


def _transposed(x: Tensor) -> Tensor:
    images, colours, height, width = x.shape
    return x.reshape(images, height, width, colours).permute(0, 3, 1, 2).contiguous()
