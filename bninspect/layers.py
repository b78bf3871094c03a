"""What a BatchNorm layer is, whichever way it was found, and where it stands in its model: plain descriptions."""

from __future__ import annotations

import msgspec

from bninspect.report import Struct, Vector

FOLDABLE = ("conv", "conv_transpose", "linear")


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


class Op(msgspec.Struct, frozen=True, kw_only=True):
    """A module or function that made a tensor: its class or name, and what a rule may ask of it.

    ``role`` is ``conv``, ``conv_transpose``, ``linear``, ``layer_norm``, ``attention``, ``rnn``, ``embedding``,
    ``batchnorm``, ``relu``, ``dropout``, ``transpose``, ``input`` or ``other``; ``bias`` counts bias parameters,
    ``consumers`` the operations that read the tensor (the model's output is one).
    """

    kind: str
    role: str
    path: str = ""
    bias: int = 0
    groups: int = 1
    consumers: int = 0


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A BatchNorm layer in the graph of one forward of ``batch`` images; of several calls, the first is described.

    Attributes:
        values_per_image: values per channel and image; the least over the calls.
        producer: what made the input.
        origin: the same, before activations, dropout and plain arithmetic.
        followers: what reads the output.
        dropout: the dropout that the input came through with no BatchNorm between.
        transposed: whether axes were swapped between the input and the last layer that mixes them.
        is_output: the output leaves the model, through a sigmoid or a softmax at most.
    """

    path: str
    calls: int
    input_shape: tuple[int, ...]
    values_per_image: float
    producer: Op | None
    followers: tuple[Op, ...]
    origin: Op | None = None
    dropout: str | None = None
    transposed: bool = False
    is_output: bool = False

    @property
    def other_axis(self) -> bool:
        """Whether a linear layer feeds it, whose features are the last axis and not the channels."""
        return self.producer is not None and self.producer.role == "linear" and len(self.input_shape) > 2

    @property
    def foldable(self) -> bool:
        """Whether the layer can be folded into the one before, which no other reads; torch does not fold all groups."""
        before = self.producer
        if self.other_axis:
            return False
        if before is None or before.role not in FOLDABLE or before.consumers != 1 or self.calls != 1:
            return False
        return before.role != "conv_transpose" or before.groups == 1


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    """What one forward showed: BatchNorm layers in call order, those never called, and other names of a layer."""

    nodes: dict[str, Node]
    never_called: tuple[str, ...] = ()
    aliases: dict[str, tuple[str, ...]] = {}
