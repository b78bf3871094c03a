"""Mutated files by the hundred thousand: each is read or refused. ``python tests/fuzz.py [COUNT] [SEED]``.

Bytes are mutated blindly, and also below the layer that would catch it: inside a pickle whose zip file is then written
anew with right checksums, and inside a JSON header whose length is then set right.
"""

from __future__ import annotations

import io
import json
import random
import signal
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from hostile import arrays, build, containers

from bninspect.batches import BatchOptions, tensors
from bninspect.errors import SourceError
from bninspect.models.stored.reading import read

if TYPE_CHECKING:
    from collections.abc import Callable

    Files = list[tuple[bytes, Callable[[bytes, random.Random], bytes]]]

SECONDS = 4
NUMBERS = [0, 1, 2, 127, 128, 255, 256, 0x7FFF, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 62, (1 << 64) - 1]
WORDS = [
    b"running_mean", b"running_var", b"}", b"{", b"[", b"]", b"(", b"t", b"R", b"b", b"Q", b"h\0", b"q\0", b".", b"-",
    b"9" * 30, b'"', b"\\u0000", b"null",
]  # fmt: skip


def mutated(raw: bytes, rng: random.Random) -> bytes:
    """``raw`` with one to four changes."""
    out = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place = rng.randrange(len(out) + 1)
        match rng.randrange(8):
            case 0 if out:
                out[place % len(out)] ^= 1 << rng.randrange(8)
            case 1 if out:
                out[place % len(out)] = rng.randrange(256)
            case 2:
                del out[place : place + rng.choice((1, 2, 4, 16, 64))]
            case 3:
                out[place:place] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 2, 4, 8))))
            case 4:
                other = rng.randrange(len(out) + 1)
                out[place:place] = out[other : other + rng.choice((2, 8, 32, 200))]
            case 5:
                width = rng.choice((1, 2, 4, 8))
                number = rng.choice(NUMBERS) % (1 << (8 * width))
                out[place : place + width] = number.to_bytes(width, rng.choice(("little", "big")))
            case 6:
                word = rng.choice(WORDS)
                out[place : place + rng.choice((0, len(word)))] = word
            case _:
                del out[place:]
        if not out:
            break
    return bytes(out)


def _parts(raw: bytes) -> list[tuple[str, bytes]]:
    source = zipfile.ZipFile(io.BytesIO(raw))
    return [(name, source.read(name)) for name in source.namelist()]


def in_zip(raw: bytes, rng: random.Random) -> bytes:
    """A zip file of which one record, not a tensor's, is mutated and all checksums are right."""
    parts = _parts(raw)
    chosen = rng.choice(
        [name for name, data in parts if name.endswith((".pkl", ".pt", ".json", "byteorder")) or len(data) < 40]
    )
    return build.archive([(name, mutated(data, rng) if name == chosen else data) for name, data in parts])


def in_array(raw: bytes, rng: random.Random) -> bytes:
    """An ``.npz`` file of which one record is mutated and all checksums are right; at times it is compressed."""
    parts = _parts(raw)
    chosen = rng.choice([name for name, _ in parts])
    deflate = tuple(name for name, _ in parts if rng.random() < 0.5)
    return build.archive([(n, mutated(data, rng) if n == chosen else data) for n, data in parts], deflate)


def in_header(raw: bytes, rng: random.Random) -> bytes:
    """A safetensors file of which the header is mutated and its length is right."""
    size = struct.unpack_from("<Q", raw)[0]
    return build.safetensors(mutated(raw[8 : 8 + size], rng), raw[8 + size :])


def saved(made: object, *, zipped: bool = True) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(made, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def as_model(path: str) -> object:
    return read(path)


def as_batch(path: str) -> object:
    return tensors.load(path, BatchOptions())


def seeds() -> dict[str, tuple[Callable[[str], object], Files]]:
    """Honest files by reader, each with a way to mutate it below its outermost layer."""
    return {reader: (as_model, files) for reader, files in models().items()} | {
        reader: (as_batch, files) for reader, files in batches().items()
    }


def batches() -> dict[str, Files]:
    """Of each kind that holds a batch."""
    import torch
    from torch.utils.data import TensorDataset

    x = torch.arange(24.0).reshape(2, 3, 2, 2)
    held = (x, TensorDataset(x), {"image": x.numpy(), "label": x[0, 0]}, [{"x": x.bfloat16()[:, 1:]}, (x, 3)])
    zipped = io.BytesIO()
    np.savez(zipped, images=x.numpy(), labels=np.arange(2))
    header = {"x": {"dtype": "F32", "shape": list(arrays.SHAPE), "data_offsets": [0, 96]}}
    return {
        "batch zip": [(saved(one), in_zip) for one in held],
        "batch legacy": [(saved(one, zipped=False), mutated) for one in held],
        "batch npy": [(arrays.npy(), mutated)],
        "batch npz": [(zipped.getvalue(), in_array)],
        "batch safetensors": [(build.safetensors(header, arrays.DATA), in_header)],
    }  # fmt: skip


def models() -> dict[str, Files]:
    """Of each kind that holds a model."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm2d(2, affine=False)))
    nested = {
        "epoch": 3,
        "state_dict": net.state_dict(),
        "ema": [{"bn.running_mean": torch.ones(9)[::2], "bn.running_var": torch.ones(5)}],
    }
    halves = {key: value.bfloat16() if value.is_floating_point() else value for key, value in net.state_dict().items()}

    script = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(net), script)
    index = json.dumps({"weight_map": {f"{build.LAYER}.{field}": "shard" for field in build.FIELDS}}).encode()
    zips = (saved(net.state_dict()), saved(net), saved(nested), saved(halves), script.getvalue())
    return {
        "zip": [(raw, in_zip) for raw in zips],
        "legacy": [(raw, mutated) for raw in (saved(net.state_dict(), zipped=False), saved(net, zipped=False))],
        "safetensors": [(build.good_safetensors(), in_header), (index, mutated)],
        "export": [(containers.export(), in_zip), (containers.older(), in_zip)],
    }  # fmt: skip


class Hang(BaseException):
    """A file took too long."""


def _hang(*_: object) -> None:
    raise Hang


def run(count: int, seed: int, folder: Path) -> dict[str, dict[str, int]]:
    """Read ``count`` mutated files for each reader; how many were read and how many refused.

    Raises:
        AssertionError: a file did anything else; it is kept in ``folder``.
    """
    signal.signal(signal.SIGALRM, _hang)
    path, tally = folder / "file", {}
    (folder / "shard").write_bytes(build.good_safetensors())
    for reader, (look, files) in seeds().items():
        rng = random.Random(f"{reader}-{seed}")
        done = tally[reader] = {"read": 0, "refused": 0}
        for _ in range(count):
            raw, inner = rng.choice(files)
            path.unlink(missing_ok=True)  # to write anew costs milliseconds of waiting for the disk
            path.write_bytes(inner(raw, rng) if rng.random() < 0.6 else mutated(raw, rng))
            signal.alarm(SECONDS)
            try:
                look(str(path))
                done["read"] += 1
            except SourceError:
                done["refused"] += 1
            except BaseException as error:
                kept = folder / f"{reader.replace(' ', '-')}-{type(error).__name__}"
                path.rename(kept)
                raise AssertionError(f"{kept}: {type(error).__name__}: {error}") from error
            finally:
                signal.alarm(0)
    return tally


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 130_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="bninspect-fuzz-", dir=memory if memory.is_dir() else None))
    print(f"{count} files per reader, seed {seed}, in {folder}")
    start = time.perf_counter()
    for reader, done in run(count, seed, folder).items():
        print(f"{reader:18} {done['read']:8} read {done['refused']:8} refused")
    print(f"{time.perf_counter() - start:.0f} s; nothing crashed, hung or raised an error that is not our own")


if __name__ == "__main__":
    main()
