"""The kernels of :mod:`bninspect.moments.triton`, in the language that Triton compiles.

Names of sizes are those of the formulas. A loop counts from zero, and what it counts is added to: under Triton's
interpreter the number of a program is a tensor, and that of a loop is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import triton.language as tl
else:
    tl: Any = None  # triton.language, where the kernels look it up; set when they are compiled


def layer(  # type: ignore[no-untyped-def]  # noqa: ANN201, PLR0912, PLR0915, PLR0917  # a kernel is one function
    x, out, N, C, S, PER,  # noqa: ANN001
    LAST: tl.constexpr, R: tl.constexpr, B: tl.constexpr,
    FULL: tl.constexpr, TAIL: tl.constexpr, WHOLE: tl.constexpr, FLUSH: tl.constexpr,
):  # fmt: skip
    """Partial figures of R channels over PER images, each read in tiles ``[R, B]``: full ones, then the tail masked."""
    c = tl.program_id(0) * R + tl.arange(0, R)
    s = tl.arange(0, B)
    inside = c < C
    n0 = tl.program_id(1) * PER
    if LAST:
        cell = s[None, :] * C + c[:, None]
        step = B * C
    else:
        cell = c[:, None] * S + s[None, :]
        step = B
    image = C.to(tl.int64) * S
    if WHOLE:
        start = s[None, :] < S
        rest = (FULL * B + s)[None, :] < S
    else:
        start = inside[:, None] & (s[None, :] < S)
        rest = inside[:, None] & ((FULL * B + s)[None, :] < S)
    first = tl.load(x + n0.to(tl.int64) * image + cell, mask=start, other=0.0).to(tl.float32)
    shift = (tl.sum(first, 1) / tl.minimum(S, B).to(tl.float32))[:, None]
    count = 0.0
    mean = tl.zeros((R,), tl.float64)
    spread = tl.zeros((R,), tl.float64)
    between = tl.zeros((R,), tl.float64)
    squares = tl.zeros((R,), tl.float64)
    zeros = tl.zeros((R, B), tl.float32)
    low = tl.full((R, B), float("inf"), tl.float32)
    high = tl.full((R, B), float("-inf"), tl.float32)
    size = S.to(tl.float64)
    for i in range(tl.minimum(PER, N - n0)):
        row = x + (n0 + i).to(tl.int64) * image + cell
        total = tl.zeros((R,), tl.float64)
        square = tl.zeros((R,), tl.float64)
        for g in range(FULL // FLUSH):
            a = tl.zeros((R, B), tl.float32)
            q = tl.zeros((R, B), tl.float32)
            for k in range(FLUSH):
                if WHOLE:
                    v = tl.load(row + (g * FLUSH + k) * step).to(tl.float32)
                else:
                    v = tl.load(row + (g * FLUSH + k) * step, mask=inside[:, None], other=0.0).to(tl.float32)
                d = v - shift
                a += d
                q += d * d
                low = tl.minimum(low, v)
                high = tl.maximum(high, v)
                zeros += (v == 0.0).to(tl.float32)
            total += tl.sum(a, 1).to(tl.float64)
            square += tl.sum(q, 1).to(tl.float64)
        a = tl.zeros((R, B), tl.float32)
        q = tl.zeros((R, B), tl.float32)
        for k in range(FULL % FLUSH):
            if WHOLE:
                v = tl.load(row + (FULL // FLUSH * FLUSH + k) * step).to(tl.float32)
            else:
                v = tl.load(row + (FULL // FLUSH * FLUSH + k) * step, mask=inside[:, None], other=0.0).to(tl.float32)
            d = v - shift
            a += d
            q += d * d
            low = tl.minimum(low, v)
            high = tl.maximum(high, v)
            zeros += (v == 0.0).to(tl.float32)
        if TAIL:
            v = tl.load(row + FULL * step, mask=rest, other=0.0).to(tl.float32)
            d = tl.where(rest, v - shift, 0.0)
            a += d
            q += d * d
            low = tl.minimum(low, tl.where(rest, v, float("inf")))
            high = tl.maximum(high, tl.where(rest, v, float("-inf")))
            zeros += (rest & (v == 0.0)).to(tl.float32)
        total += tl.sum(a, 1).to(tl.float64)
        square += tl.sum(q, 1).to(tl.float64)
        own = total / size
        delta = own - mean
        count += 1.0
        mean += delta / count
        between += delta * (own - mean)
        spread += square - total * own
        squares += square
    o = out + (tl.program_id(1) * C + c) * 8
    tl.store(o, tl.zeros((R,), tl.float64) + count, mask=inside)
    tl.store(o + 1, mean + tl.sum(shift, 1).to(tl.float64), mask=inside)
    tl.store(o + 2, spread + between * size, mask=inside)
    tl.store(o + 3, between, mask=inside)
    tl.store(o + 4, tl.sum(zeros.to(tl.float64), 1), mask=inside)
    tl.store(o + 5, tl.min(low, 1).to(tl.float64), mask=inside)
    tl.store(o + 6, tl.max(high, 1).to(tl.float64), mask=inside)
    tl.store(o + 7, squares, mask=inside)


def merge(source, merged, table, blocks, total, W: tl.constexpr, K: tl.constexpr, FAR: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, PLR0917
    """Moments of W channels of one layer over all its programs, K at a time, around the mean of the first."""
    layer = tl.load(blocks + tl.program_id(0) * 2)
    c = tl.load(blocks + tl.program_id(0) * 2 + 1) + tl.arange(0, W)
    row = table + layer * 5
    splits = tl.load(row + 1)
    C = tl.load(row + 2)
    size = tl.load(row + 3).to(tl.float64)
    inside = c < C
    first = source + tl.load(row) + c * 8
    origin = tl.load(first + 1, mask=inside, other=0.0)
    count = tl.zeros((W,), tl.float64)
    shifted = tl.zeros((W,), tl.float64)
    spread = tl.zeros((W,), tl.float64)
    between = tl.zeros((W,), tl.float64)
    zeros = tl.zeros((W,), tl.float64)
    squares = tl.zeros((W,), tl.float64)
    low = tl.full((W,), float("inf"), tl.float64)
    high = tl.full((W,), float("-inf"), tl.float64)
    for k in range((splits + K - 1) // K):
        part = k * K + tl.arange(0, K)
        there = (part < splits)[:, None] & inside[None, :]
        p = first[None, :] + part[:, None] * C * 8
        n = tl.load(p, mask=there, other=0.0)
        delta = tl.where(there, tl.load(p + 1, mask=there, other=0.0) - origin[None, :], 0.0)
        count += tl.sum(n, 0)
        shifted += tl.sum(n * delta, 0)
        between += tl.sum(tl.load(p + 3, mask=there, other=0.0) + n * delta * delta, 0)
        spread += tl.sum(tl.load(p + 2, mask=there, other=0.0) + n * delta * delta * size, 0)
        zeros += tl.sum(tl.load(p + 4, mask=there, other=0.0), 0)
        low = tl.minimum(low, tl.min(tl.load(p + 5, mask=there, other=float("inf")), 0))
        high = tl.maximum(high, tl.max(tl.load(p + 6, mask=there, other=float("-inf")), 0))
        squares += tl.sum(tl.load(p + 7, mask=there, other=0.0), 0)
    moved = shifted / tl.where(inside, count, 1.0)
    mean = origin + moved
    between -= count * moved * moved
    spread -= count * moved * moved * size
    constant = low == high
    spread = tl.where(constant, 0.0, spread)
    mean = tl.where(constant, low, tl.where(squares > FAR * spread, float("nan"), mean))
    o = merged + tl.load(row + 4) + c
    tl.store(o, count * size, mask=inside)
    tl.store(o + total, mean, mask=inside)
    tl.store(o + total * 2, spread, mask=inside)
    tl.store(o + total * 3, count, mask=inside)
    tl.store(o + total * 4, mean, mask=inside)
    tl.store(o + total * 5, tl.where(constant, 0.0, between), mask=inside)
    tl.store(o + total * 6, tl.zeros((W,), tl.float64), mask=inside)
    tl.store(o + total * 7, zeros, mask=inside)
    tl.store(o + total * 8, low, mask=inside)
    tl.store(o + total * 9, high, mask=inside)
