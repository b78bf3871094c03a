"""What a BatchNorm layer is, whichever way it was found: PyTorch's own attribute names, vectors in numpy."""

from __future__ import annotations

from bninspect.report import Struct, Vector


class BatchNormLayer(Struct, frozen=True, kw_only=True, gc=False):
    """A neutral view of one BatchNorm layer.

    Any field but ``path``, ``kind`` and ``num_features`` may be unknown (``None``): a state dict holds no eps, a
    ``FrozenBatchNorm2d`` no momentum. ``momentum`` is PyTorch's: the weight of the new batch; it is also ``None`` for a
    cumulative average. Vectors have shape ``[num_features]``.

    ``dtype`` is that of the stored statistics (vectors of 16-bit types are widened to float32 to be looked at);
    ``trainable`` tells whether gamma or beta takes gradients.
    """

    path: str
    kind: str
    num_features: int
    eps: float | None = None
    momentum: float | None = None
    affine: bool | None = None
    track_running_stats: bool | None = None
    training: bool | None = None
    weight: Vector | None = None
    bias: Vector | None = None
    running_mean: Vector | None = None
    running_var: Vector | None = None
    num_batches_tracked: int | None = None
    dtype: str | None = None
    trainable: bool | None = None
