"""A process that forks hundreds of times: what it holds is no garbage, and lies in large pages, where there are such.

A fork copies the table of pages, and its end takes that apart: 15 ms for the 70,000 pages of a process with torch.
"""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

LARGE = 2 << 20  # bytes
COLLAPSE = 25  # MADV_COLLAPSE of Linux 6.1; others refuse it, and keep their pages


def settle() -> None:
    """To be called when all is imported that the forks share."""
    gc.collect()
    gc.freeze()  # or every collection in a fork copies the heap
    maps = Path("/proc/self/maps")
    for line in maps.read_text().splitlines() if maps.exists() else ():
        span, rights, _, _, _, *names = line.split()
        if rights == "rw-p" and names in ([], ["[heap]"]):
            _collapse(*(int(end, 16) for end in span.split("-")))


def _collapse(begin: int, end: int) -> None:
    begin, end = -(-begin // LARGE) * LARGE, end // LARGE * LARGE
    if begin < end:  # one call for all of it: each waits for the kernel's workers
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), COLLAPSE)
