"""The kernels of :mod:`bninspect.moments.triton`, in the language that Triton compiles.

Names of sizes are those of the formulas. A loop counts from zero, and what it counts is added to: under Triton's
interpreter the number of a program is a tensor, and that of a loop is none. Nothing is divided where a value or an
image is added: a division in float64 costs as much as the values of a small image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import triton.language as tl
else:
    tl: Any = None  # triton.language, where the kernels look it up; set when they are compiled


def add(x, inside, shift, a, q, zeros, low, high, MASKED: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, PLR0917
    """The sums and extremes of a tile with those of the tile ``[R, B]`` at ``x``."""
    if MASKED:
        v = tl.load(x, mask=inside, other=0.0).to(tl.float32)
        d = tl.where(inside, v - shift, 0.0)
        zeros += (inside & (v == 0.0)).to(tl.float32)
        low = tl.minimum(low, tl.where(inside, v, float("inf")))
        high = tl.maximum(high, tl.where(inside, v, float("-inf")))
    else:
        v = tl.load(x).to(tl.float32)
        d = v - shift
        zeros += (v == 0.0).to(tl.float32)
        low = tl.minimum(low, v)
        high = tl.maximum(high, v)
    return a + d, q + d * d, zeros, low, high


def layer(  # type: ignore[no-untyped-def]  # noqa: ANN201, PLR0912, PLR0915, PLR0917  # a kernel is one function
    x, out, N, C_, S_, PER,  # noqa: ANN001
    LAST: tl.constexpr, C_STEP: tl.constexpr, S_STEP: tl.constexpr, R: tl.constexpr, B: tl.constexpr,
    FULL: tl.constexpr, TAIL: tl.constexpr, WHOLE: tl.constexpr, PARTS: tl.constexpr, TILES: tl.constexpr,
    SAMPLES: tl.constexpr, CARRY: tl.constexpr, FLUSH: tl.constexpr, NEAR: tl.constexpr,
):  # fmt: skip
    """Partial figures of R channels over PER images, or over one of the PARTS of an image, read in tiles ``[R, B]``.

    A part has TILES tiles, the last one the rest: FULL are full in an image, and the tail is read with a mask. The
    sizes C and S come divided by the powers of two that divide them, so that the compiler knows what is aligned.
    """
    C = C_ * C_STEP
    S = S_ * S_STEP
    c = tl.program_id(0) * R + tl.arange(0, R)
    s = tl.arange(0, B)
    inside = c < C
    n0 = tl.program_id(1) // PARTS * PER
    part = tl.program_id(1) % PARTS
    if LAST:
        cell = s[None, :] * C + c[:, None]
        step = B * C
    else:
        cell = c[:, None] * S + s[None, :]
        step = B
    if PARTS == 1:
        flushes = FULL // FLUSH
    else:
        cell += part * TILES * step
        flushes = tl.where(part == PARTS - 1, FULL - part * TILES, TILES) // FLUSH
    there = inside[:, None] & (s[None, :] >= 0)
    start = inside[:, None] & (s[None, :] < S)
    rest = inside[:, None] & ((FULL * B + s)[None, :] < S)
    image = C.to(tl.int64) * S
    images = tl.minimum(PER, N - n0)
    first = tl.zeros((R, B), tl.float32)
    for sample in tl.static_range(SAMPLES):
        n = n0 + sample * images // SAMPLES
        tile = x + n.to(tl.int64) * image + cell + sample * TILES // SAMPLES * step
        first += tl.load(tile, mask=start, other=0.0).to(tl.float32)
    shift = tl.sum(first, 1) / (SAMPLES * tl.minimum(S, B)).to(tl.float32)
    around = shift[:, None]
    total = tl.zeros((R,), tl.float64)
    square = tl.zeros((R,), tl.float64)
    between = tl.zeros((R,), tl.float64)
    zeros = tl.zeros((R, B), tl.float32)
    low = tl.full((R, B), float("inf"), tl.float32)
    high = tl.full((R, B), float("-inf"), tl.float32)
    q = tl.zeros((R, B), tl.float32)
    for i in range(images):
        row = x + (n0 + i).to(tl.int64) * image + cell
        own = tl.zeros((R,), tl.float64)
        a = tl.zeros((R, B), tl.float32)
        for g in range(flushes):
            for k in range(FLUSH // NEAR):
                b = tl.zeros((R, B), tl.float32)
                r = tl.zeros((R, B), tl.float32)
                for near in tl.static_range(NEAR):
                    tile = row + (g * FLUSH + k * NEAR + near) * step
                    b, r, zeros, low, high = add(tile, there, around, b, r, zeros, low, high, MASKED=not WHOLE)
                a += b
                q += r
            own += tl.sum(a, 1).to(tl.float64)
            square += tl.sum(q, 1).to(tl.float64)
            a = tl.zeros((R, B), tl.float32)
            q = tl.zeros((R, B), tl.float32)
        if part == PARTS - 1:
            for k in tl.static_range(FULL % FLUSH // NEAR + 1):
                b = tl.zeros((R, B), tl.float32)
                r = tl.zeros((R, B), tl.float32)
                for near in tl.static_range(min(NEAR, FULL % FLUSH - k * NEAR)):
                    tile = row + (flushes * FLUSH + k * NEAR + near) * step
                    b, r, zeros, low, high = add(tile, there, around, b, r, zeros, low, high, MASKED=not WHOLE)
                a += b
                q += r
            if TAIL:
                tile = row + (flushes * FLUSH + FULL % FLUSH) * step
                a, q, zeros, low, high = add(tile, rest, around, a, q, zeros, low, high, MASKED=True)
        if (i + 1) % CARRY == 0:
            square += tl.sum(q, 1).to(tl.float64)
            q = tl.zeros((R, B), tl.float32)
        own += tl.sum(a, 1).to(tl.float64)
        total += own
        between += own * own
    square += tl.sum(q, 1).to(tl.float64)
    o = out + tl.program_id(1).to(tl.int64) * C * 7 + c
    tl.store(o, shift.to(tl.float64), mask=inside)
    tl.store(o + C, total, mask=inside)
    tl.store(o + C * 2, square, mask=inside)
    tl.store(o + C * 3, between, mask=inside)
    tl.store(o + C * 4, tl.sum(zeros.to(tl.float64), 1), mask=inside)
    tl.store(o + C * 5, tl.min(low, 1).to(tl.float64), mask=inside)
    tl.store(o + C * 6, tl.max(high, 1).to(tl.float64), mask=inside)


def merge(source, merged, table, blocks, total, W: tl.constexpr, K: tl.constexpr, FAR: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, PLR0915, PLR0917
    """Moments of W channels of one layer over all its programs, K at a time, around the mean of the first."""
    layer = tl.load(blocks + tl.program_id(0) * 2)
    c = tl.load(blocks + tl.program_id(0) * 2 + 1) + tl.arange(0, W)
    row = table + layer * 9
    units = tl.load(row + 1)
    parts = tl.load(row + 2)
    C = tl.load(row + 3)
    S = tl.load(row + 4)
    N = tl.load(row + 5)
    per = tl.load(row + 6)
    span = tl.load(row + 7)
    size = S.to(tl.float64)
    inside = c < C
    first = source + tl.load(row) + c
    origin = tl.load(first, mask=inside, other=0.0)
    shifted = tl.zeros((K, W), tl.float64)
    spread = tl.zeros((K, W), tl.float64)
    between = tl.zeros((K, W), tl.float64)
    zeros = tl.zeros((K, W), tl.float64)
    squares = tl.zeros((K, W), tl.float64)
    low = tl.full((K, W), float("inf"), tl.float64)
    high = tl.full((K, W), float("-inf"), tl.float64)
    for k in range((units + K - 1) // K):
        unit = k * K + tl.arange(0, K)
        there = (unit < units)[:, None] & inside[None, :]
        n = tl.maximum(tl.minimum(per, N - unit * per), 1).to(tl.float64)[:, None]
        share = 1.0 / n
        whole = tl.zeros((K, W), tl.float64)
        for p in range(parts):
            positions = n * tl.where(p == parts - 1, S - p * span, span).to(tl.float64)
            f = first[None, :] + (unit[:, None] * parts + p) * C * 7
            a = tl.load(f + C, mask=there, other=0.0)
            q = tl.load(f + C * 2, mask=there, other=0.0)
            mean = a * (1.0 / positions)
            delta = tl.where(there, tl.load(f, mask=there, other=0.0) - origin[None, :] + mean, 0.0)
            whole += positions * delta
            spread += q - a * mean + positions * delta * delta
            between += tl.load(f + C * 3, mask=there, other=0.0) - a * a * share
            zeros += tl.load(f + C * 4, mask=there, other=0.0)
            low = tl.minimum(low, tl.load(f + C * 5, mask=there, other=float("inf")))
            high = tl.maximum(high, tl.load(f + C * 6, mask=there, other=float("-inf")))
            squares += q
        shifted += whole
        between += whole * whole * share
    images = N.to(tl.float64)
    moved = tl.sum(shifted, 0) / (images * size)
    mean = origin + moved
    spread = tl.sum(spread, 0) - images * size * moved * moved
    between = tl.sum(between, 0) / (size * size) - images * moved * moved
    low = tl.min(low, 0)
    high = tl.max(high, 0)
    constant = low == high
    spread = tl.where(constant, 0.0, spread)
    mean = tl.where(constant, low, tl.where(tl.sum(squares, 0) > FAR * spread, float("nan"), mean))
    o = merged + tl.load(row + 8) + c
    tl.store(o, tl.zeros((W,), tl.float64) + images * size, mask=inside)
    tl.store(o + total, mean, mask=inside)
    tl.store(o + total * 2, spread, mask=inside)
    tl.store(o + total * 3, tl.zeros((W,), tl.float64) + images, mask=inside)
    tl.store(o + total * 4, mean, mask=inside)
    tl.store(o + total * 5, tl.where(constant, 0.0, between), mask=inside)
    tl.store(o + total * 6, tl.zeros((W,), tl.float64), mask=inside)
    tl.store(o + total * 7, tl.sum(zeros, 0), mask=inside)
    tl.store(o + total * 8, low, mask=inside)
    tl.store(o + total * 9, high, mask=inside)
