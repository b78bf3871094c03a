"""Random inputs, measured and held against the definition: ``python tests/search.py [COUNT] [SEED]``.

A case is one seed: a dtype, a layout in memory, a shape, a distribution and a split into pieces. What was measured must
agree with :func:`bninspect.moments.exact`, and that with two passes in numpy's long double.
"""

from __future__ import annotations

import random
import sys
import time
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bninspect import moments
from bninspect.moments import cpu, queued

if TYPE_CHECKING:
    from collections.abc import Callable

PROMISE = 1e-6
MOST = 1_000_000  # values of a case
DTYPES = (torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16)
SCALES = {torch.float32: (1e-18, 1e18), torch.float64: (1e-100, 1e100)}  # whose squares are still normal numbers


def _every_other(x: Tensor, dim: int) -> Tensor:
    size = x.shape[dim]
    wide = torch.stack([x, torch.full_like(x, 7)], dim % x.dim() + 1).flatten(dim % x.dim(), dim % x.dim() + 1)
    return wide[(slice(None),) * (dim % x.dim()) + (slice(0, 2 * size, 2),)]


def _margin(x: Tensor, dim: int) -> Tensor:
    """A slice from the middle of a larger tensor."""
    edge = torch.full_like(x.narrow(dim, 0, 1), -5)
    return torch.cat([edge, x, edge], dim).narrow(dim, 1, x.shape[dim])


def _channels_last(x: Tensor) -> Tensor:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=formats.get(x.dim(), torch.contiguous_format))


def _in_order(x: Tensor, *dims: int) -> Tensor:
    """The same values, with these dimensions swapped in memory."""
    return x.transpose(*dims).contiguous().transpose(*dims)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels_last": _channels_last,
    "some channels": lambda x: _margin(x, 1),
    "some channels of channels_last": lambda x: _channels_last(torch.cat([x, x], 1))[:, : x.shape[1]],
    "every other channel": lambda x: _every_other(x, 1),
    "cropped": lambda x: _margin(x, -1),
    "rows cropped": lambda x: _margin(x, -2),
    "every other column": lambda x: _every_other(x, -1),
    "every other row": lambda x: _every_other(x, -2),
    "every other column of channels_last": lambda x: _every_other(_channels_last(x), -1),
    "one of a stack": lambda x: torch.stack([x, torch.full_like(x, 3)], -1)[..., 0],
    "transposed": lambda x: _in_order(x, -1, -2),
    "channels outermost": lambda x: _in_order(x, 0, 1),
    "images innermost": lambda x: _in_order(x, 0, -1),
    "one image repeated": lambda x: x[:1].expand_as(x),
    "one column repeated": lambda x: x[..., :1].expand_as(x),
}


def _normal(rng: random.Random, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def _offset(rng: random.Random, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return _normal(rng, shape, dtype) + rng.choice((1, -1)) * 10 ** rng.uniform(-1, 8)


def _constant(rng: random.Random, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.full(shape, rng.choice((0.0, 0.1, -7.3, 123456.789, rng.gauss(0, 1))), dtype=torch.float64)


def _quantised(rng: random.Random, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    step = rng.choice((1, 0.1, 1 / 255, rng.random()))
    levels = torch.randint(0, rng.choice((2, 3, 16, 256)), shape).double()
    return levels * step - rng.choice((0, 0, 0.485, 0.3, 103.939))


def _levels(rng: random.Random, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A few values that have nothing to do with each other, some of them rare."""
    values = torch.tensor([rng.gauss(0, 1) * 10 ** rng.uniform(-2, 2) for _ in range(rng.choice((2, 2, 3, 4)))])
    weights = torch.tensor([rng.random() ** 2 + 0.01 for _ in values])
    return values.double()[torch.multinomial(weights, int(np.prod(shape)), replacement=True)].view(shape)


def _clusters(rng: random.Random, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    share, apart, width = rng.choice((0.5, 0.1, 1e-3)), 10 ** rng.uniform(0, 4), 10 ** rng.uniform(-6, 0)
    return torch.where(torch.rand(shape) < share, apart, 1.7) + width * _normal(rng, shape, dtype)


def _denormal(rng: random.Random, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return _normal(rng, shape, dtype) * (torch.finfo(dtype).tiny * rng.random() if dtype != torch.float64 else 1e-140)


def _broken(rng: random.Random, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    x = _normal(rng, shape, dtype) + rng.choice((0, 3, 1000))
    share = rng.choice((1e-4, 1e-2, 0.5))
    x = torch.where(torch.rand(shape) < share, rng.choice((torch.nan, torch.inf, -torch.inf)), x)
    return torch.where(torch.rand(shape) < share, torch.nan, x)


def _heavy(rng: random.Random, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    normal = _normal(rng, shape, dtype)
    return normal.sign() * normal.abs() ** rng.choice((3, 7)) / torch.rand(shape).clamp(1e-6)


def _ramp(rng: random.Random, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    count = int(np.prod(shape))
    return torch.linspace(rng.uniform(-1, 1), rng.uniform(-1, 100), count, dtype=torch.float64).view(shape)


def _sparse(rng: random.Random, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.where(torch.rand(shape) < rng.choice((1e-4, 1e-2, 0.1)), _normal(rng, shape, dtype), 0.0)


def _scaled(rng: random.Random, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    low, high = SCALES.get(dtype, (1e-2, 1e2))
    return _normal(rng, shape, dtype) * 10 ** rng.uniform(np.log10(low), np.log10(high))


DISTRIBUTIONS = (
    _normal, _offset, _constant, _quantised, _levels, _clusters, _denormal, _broken, _heavy, _ramp, _sparse, _scaled,
)  # fmt: skip


def shape_of(rng: random.Random) -> tuple[int, ...]:
    """From ``[N, C]`` to ``[N, C, D, H, W]``, most of them small and some long."""
    while True:
        images, channels = rng.choice((1, 2, 3, 8, 33)), rng.choice((1, 2, 3, 5, 16, 70))
        longest = rng.choice((3, 14, 60, 300, 300))
        shape = (images, channels, *(rng.randint(1, longest) for _ in range(rng.choice((0, 1, 2, 2, 2, 3)))))
        if np.prod(shape) <= MOST:
            return shape if len(shape) > 2 else (images * 16, channels)


def case(seed: str) -> tuple[str, Tensor, list[Tensor]]:
    """What it is, all values, and the pieces that they are measured in."""
    rng = random.Random(seed)
    torch.manual_seed(rng.randrange(1 << 31))
    shape, dtype = shape_of(rng), rng.choice(DTYPES)
    distribution, (layout, placed) = rng.choice(DISTRIBUTIONS), rng.choice(list(LAYOUTS.items()))
    most = torch.finfo(dtype).max
    values = distribution(rng, shape, dtype)
    values = torch.where(values.isfinite(), values.clamp(-most, most), values).to(dtype)
    x = placed(values)
    assert x.shape == shape
    pieces = list(x.split(rng.randint(1, len(x)))) if rng.random() < 0.3 else [x]
    return f"{distribution.__name__[1:]}, {layout}, {dtype}, {list(shape)}, {len(pieces)} pieces", x, pieces


def defined(x: Tensor) -> tuple[np.ndarray, ...]:
    """Count, mean, M2, images, image_mean and image_M2 of the finite values of each channel, in long double."""
    rows = x.double().transpose(0, 1).reshape(x.shape[1], len(x), -1).numpy().astype(np.longdouble)
    finite = np.isfinite(rows)
    flat, one = np.where(finite, rows, 0).reshape(len(rows), -1), finite.reshape(len(rows), -1).argmax(1)
    first = np.take_along_axis(flat, one[:, None], 1)[:, :, None]
    rows = rows - first  # constants have no variance at all
    count, sizes = finite.sum((1, 2)), finite.sum(2)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(finite, rows, 0).sum((1, 2)) / count
        M2 = np.square(np.where(finite, rows - mean[:, None, None], 0)).sum((1, 2))
        means = np.where(finite, rows - mean[:, None, None], 0).sum(2) / sizes
        seen = sizes > 0
        middle = np.where(seen, means, 0).sum(1) / seen.sum(1)
        image_M2 = np.square(np.where(seen, means - middle[:, None], 0)).sum(1)
        middle += mean + first[:, 0, 0]
    return count, mean + first[:, 0, 0], M2, seen.sum(1), middle, image_M2


def faults(found: moments.Moments, x: Tensor) -> list[str]:
    """What of the figures breaks the promise: 1e-6 of the variance, and of the standard deviation for the means."""
    count, mean, M2, images, image_mean, image_M2 = defined(x)
    rows = x.double().transpose(0, 1).flatten(1).numpy()
    finite = np.isfinite(rows)
    some = count > 0
    std = np.sqrt(M2 / np.maximum(count, 1))
    with np.errstate(invalid="ignore"):
        wrong = {
            "count": found.count != count,
            "nonfinite": found.nonfinite != (~finite).sum(1),
            "zeros": found.zeros != (rows == 0).sum(1),
            "min": found.min != np.where(finite, rows, np.inf).min(1),
            "max": found.max != np.where(finite, rows, -np.inf).max(1),
            "images": found.images != images,
            "mean": some & ~(np.abs(found.mean - mean) <= PROMISE * std + 1e-15 * np.abs(mean)),
            "image_mean": some & ~(np.abs(found.image_mean - image_mean) <= PROMISE * std + 1e-15 * np.abs(mean)),
            "M2": some & ~(np.abs(found.M2 - M2) <= PROMISE * M2),
            "image_M2": some & ~(np.abs(found.image_M2 - image_M2) <= _image_bound(image_M2, images, std)),
        }
        off = np.nanmax(np.abs(found.M2 / np.where(M2 > 0, M2, np.nan) - 1), initial=0)
    return [f"{name} of channel {bad.argmax()}" for name, bad in wrong.items() if bad.any()] and [
        *(f"{name} of channel {bad.argmax()}" for name, bad in wrong.items() if bad.any()),
        f"M2 off by {float(off):.2g}",
    ]


def _image_bound(image_M2: np.ndarray, images: np.ndarray, std: np.ndarray) -> np.ndarray:
    """What an error of 1e-6 standard deviations in each image's mean may change."""
    return PROMISE * std * (2 * np.sqrt(image_M2 * images) + PROMISE * std * images)


def judge(seed: str) -> tuple[str, list[str]]:
    """What the case is, and what is wrong with it."""
    name, x, pieces = case(seed)
    wrong = [f"exact: {one}" for one in faults(reduce(moments.merge, map(moments.exact, pieces)), x)]
    measured = reduce(moments.merge, map(cpu.measure, pieces))
    wrong += [f"cpu: {one}" for one in faults(measured, x)]
    least = reduce(moments.merge, [cpu.measure(piece, extremes=False) for piece in pieces])
    wrong += [f"cpu, no extremes: {one}" for one in faults(least._replace(**_extremes(measured)), x)]
    away = queued.together([queued.enqueue(x)])  # what runs on a device, but where it says that it is in doubt
    sure = ~queued.doubtful(away)
    if sure.any():
        chosen = moments.Moments(*(vector[sure] for vector in away))
        wrong += [f"device: {one}" for one in faults(chosen, x[:, torch.from_numpy(sure)])]
    return name, wrong


def _extremes(found: moments.Moments) -> dict[str, np.ndarray]:
    return {name: getattr(found, name) for name in ("zeros", "min", "max")}


def search(count: int, seed: int) -> list[str]:
    """Descriptions of the cases that break the promise."""
    found = ((f"{seed}-{number}", *judge(f"{seed}-{number}")) for number in range(count))
    return [f"case {key}: {name}: {'; '.join(wrong)}" for key, name, wrong in found if wrong]


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())
    torch.set_num_threads(1)
    start = time.perf_counter()
    print(f"{count} inputs, seed {seed}", flush=True)
    failed = search(count, seed)
    print("\n".join(failed) or f"{time.perf_counter() - start:.0f} s; none is off by more than {PROMISE:g}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
