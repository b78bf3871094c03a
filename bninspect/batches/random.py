"""A made-up batch, seeded: good for a look at shapes and cost, never for a finding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bninspect.batches import Batch, BatchOptions
from bninspect.errors import SourceError
from bninspect.text import printable

if TYPE_CHECKING:
    from torch import Tensor

SCHEME = "random"
_KINDS = ("normal", "uniform", "zeros")
_SIZE = 8


def accepts(text: str) -> bool:
    """``random`` (``random:KIND`` is known by its scheme)."""
    return text == SCHEME


def load(value: str, options: BatchOptions) -> Batch:
    """A batch of the shapes of ``--input`` and the size of ``--batch-size`` (default 8).

    Raises:
        SourceError: an unknown kind, or no ``--input``.
    """
    kind = _KINDS[0] if value == SCHEME else value
    if kind not in _KINDS:
        raise SourceError(f"random:{printable(kind)} is unknown: give random, random:{' or random:'.join(_KINDS)}")
    if not options.shapes:
        raise SourceError("--batch random needs a shape: add --input C,H,W, for example --input 3,224,224")
    size = options.size or _SIZE
    given = options.dtypes or ("float32",)
    dtypes = given * (len(options.shapes) if len(given) == 1 else 1)
    if len(dtypes) != len(options.shapes):
        raise SourceError(f"{len(dtypes)} --input-dtype were given for {len(options.shapes)} --input")
    return Batch(
        name=f"random:{kind}",
        kind="random",
        data=_draw(kind, size, options, dtypes),
        synthetic=True,
        num_images=size,
    )


def _draw(kind: str, size: int, options: BatchOptions, dtypes: tuple[str, ...]) -> Tensor | list[tuple[Tensor, ...]]:
    import torch

    generator = torch.Generator().manual_seed(options.seed)
    draw = {"normal": torch.randn, "uniform": torch.rand}.get(kind)
    tensors = []
    for shape, name in zip(options.shapes, dtypes, strict=True):
        dtype = getattr(torch, name, None)
        if not isinstance(dtype, torch.dtype):
            raise SourceError(f"{printable(name)!r} is no torch dtype: give float32, float16, bfloat16, int64 ...")
        floating = draw is not None and dtype.is_floating_point
        made = draw(size, *shape, generator=generator) if floating and draw else torch.zeros(size, *shape)
        tensors.append(made.to(dtype))
    return tensors[0] if len(tensors) == 1 else [tuple(tensors)]
