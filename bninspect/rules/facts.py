"""What the rules look at: the stored values of each layer, its place in the graph, and what real data did in it."""

from __future__ import annotations

from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bninspect.report import Place, Severity, Vector

if TYPE_CHECKING:
    from collections.abc import Collection

    from bninspect.layers import BatchNormLayer, Graph, Node
    from bninspect.report import StatsLayer
    from bninspect.rules.data_facts import Data


FEW = 32  # images below which a comparison of statistics is only told


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule found: a sentence that layers can share, and one layer's numbers (no layer: of the whole model).

    ``told`` says the numbers in words; ``runs`` whether the command of the rule, if it has one, is part of the ``fix``.
    """

    message: str
    told: str = ""
    severity: Severity | None = None
    place: Place | None = None
    evidence: dict[str, float | int | None] = {}
    fix: str | None = None
    runs: bool = True


class Silence(msgspec.Struct, frozen=True):
    """Why a rule does not apply, and to which ``layers``; none: to the whole model."""

    reason: str
    layers: tuple[str, ...] = ()


class LayerFacts:
    """All that is known of one layer: ``stored`` (its fields are also read directly), ``live`` and ``node``."""

    def __init__(
        self,
        stored: BatchNormLayer,
        live: StatsLayer | None = None,
        node: Node | None = None,
        square_error: Vector | None = None,
    ) -> None:
        self.stored = stored
        self.square_error = square_error
        self.live: Any = live
        self.channels: Any = live.channels if live else None
        self.node: Any = node

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stored, name)

    def hit(
        self,
        message: str,
        channels: Any = None,
        severity: Severity | None = None,
        fix: str | None = None,
        told: str = "",
        *,
        runs: bool = True,
        **evidence: Any,
    ) -> Hit:
        """A hit in this layer; ``channels`` is a mask ``[num_features]``, and ``told`` says what they do."""
        index = None if channels is None else tuple(int(channel) for channel in np.flatnonzero(channels))
        if index is not None:
            evidence = {"num_channels": len(index), **evidence}
        numbers: dict[str, float | int | None] = {
            name: _number(value) for name, value in evidence.items() if value is not None
        }
        if index is not None and (told or len(index) > 1):
            told = f"{len(index):,} of {self.num_features:,} channels {told}".rstrip()
        place = Place(path=self.stored.path, channels=index, told=told, evidence=numbers)
        return Hit(message=message, severity=severity, place=place, fix=fix, runs=runs)

    @cached_property
    def unknown(self) -> frozenset[str]:
        """Names of all that is not known of it."""
        known = (*msgspec.structs.astuple(self.stored), self.live, self.node)
        names = (*self.stored.__struct_fields__, "live", "node")
        return _names_of(tuple(name for name, value in zip(names, known, strict=True) if value is None))

    @property
    def frozen(self) -> bool:
        """Whether the class never updates its statistics (FrozenBatchNorm2d and its like)."""
        return self.stored.kind.startswith("Frozen")

    @cached_property
    def nonfinite(self) -> Any:
        """Mask of channels with a NaN or an infinity in any stored vector, and how many entries there are."""
        vectors = [vector for vector in self._vectors() if vector is not None and len(vector) == self.num_features]
        if not vectors or share(np.isfinite(np.concatenate(vectors))) == 1:
            return np.zeros(self.num_features, int)
        return sum(~np.isfinite(vector) for vector in vectors)

    def _vectors(self) -> tuple[Vector | None, ...]:
        stored = self.stored
        return stored.weight, stored.bias, stored.running_mean, stored.running_var

    @property
    def lengths(self) -> set[int]:
        """Lengths of the stored vectors."""
        return {len(vector) for vector in self._vectors() if vector is not None}

    @cached_property
    def sound(self) -> bool:
        """Whether every vector has one entry per channel, so that channels can be compared at all."""
        return self.lengths <= {self.num_features}

    @property
    def broken(self) -> bool:
        """Whether stored values are not finite, or a variance is negative."""
        var = self.stored.running_var
        return bool(self.nonfinite.any()) or (var is not None and bool((var < 0).any()))

    @cached_property
    def statistics_at_start(self) -> bool:
        """Whether the running statistics are exactly 0 and 1."""
        stored = self.stored
        known = stored.running_mean is not None and stored.running_var is not None
        return known and not np.any(stored.running_mean) and bool(np.all(stored.running_var == 1))

    @cached_property
    def affine_at_start(self) -> bool:
        """Whether gamma is 0 or 1 everywhere and beta is 0, as layers are initialised."""
        weight, bias = self.stored.weight, self.stored.bias
        return (weight is None or bool(np.isin(weight, (0, 1)).all())) and (bias is None or not np.any(bias))

    @cached_property
    def affine_learned(self) -> bool:
        """Whether gamma differs over channels, or beta from 0: no initialisation in use does that."""
        weight, bias = self.stored.weight, self.stored.bias
        varied = weight is not None and len(weight) > 0 and bool(np.any(weight != weight[0]))
        return varied or (bias is not None and bool(np.any(bias)))

    @cached_property
    def as_new(self) -> bool:
        """Whether nothing was learned in it, and no batch was counted."""
        return self.statistics_at_start and not self.affine_learned and not self.stored.num_batches_tracked

    @cached_property
    def output_std(self) -> Vector:
        """Predicted standard deviation of each output channel, ``|weight| sqrt(rv / (rv + eps))``."""
        var = np.asarray(self.running_var, np.float64)
        gain = 1.0 if self.weight is None else np.abs(self.weight)
        with np.errstate(invalid="ignore", divide="ignore"):
            spread: Vector = gain * np.sqrt(var / (var + self.eps))
        return spread

    @cached_property
    def output_ratio(self) -> Vector:
        """Predicted mean of each output channel in its standard deviations; NaN where nothing varies."""
        bias = np.zeros(self.num_features) if self.bias is None else self.bias
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio: Vector = np.where(self.output_std > 0, bias / self.output_std, np.nan)
        return ratio

    @cached_property
    def offset(self) -> Vector:
        """``|running_mean| / sqrt(running_var)``; NaN where the variance is not positive, or the mean infinite."""
        var = np.asarray(self.running_var, np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.abs(self.running_mean) / np.sqrt(var)
        return np.where((var > 0) & np.isfinite(ratio), ratio, np.nan)

    @cached_property
    def output_range(self) -> tuple[Vector, Vector]:
        """Least and greatest output of each channel over the data, from the extremes of the input."""
        c, s = self.channels, self.stored
        assert s.running_var is not None
        assert s.eps is not None
        with np.errstate(invalid="ignore"):
            scale = (1.0 if s.weight is None else s.weight) / np.sqrt(s.running_var.astype(np.float64) + s.eps)
            ends = [scale * (end - s.running_mean) + (0.0 if s.bias is None else s.bias) for end in (c.min, c.max)]
        return np.minimum(*ends), np.maximum(*ends)

    @cached_property
    def certainty(self) -> tuple[Vector, Vector]:
        """How many standard errors over images the mean is off, and the mean square around running_mean.

        The error is that of the hypothesis: if running_var were right, images would spread as much more as it is larger
        than the variance that was seen. So a rare image that was not drawn is no proof that running_var is too large.
        """
        c = self.channels
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.abs(c.z) * np.minimum(1, c.r)
            if self.square_error is None:
                return mean, np.zeros_like(mean)
            square = c.var + (c.mean - self.running_mean) ** 2
            error = self.square_error * np.maximum(1, self.running_var / square)
            return mean, np.nan_to_num(np.abs(square - self.running_var) / error, nan=0.0, posinf=np.inf)

    def far(self, z: float = 5.0, d: float = 0.5, r: float = 1.5) -> Any:
        """Mask of channels whose statistics are certainly and materially off.

        The mean is off by ``z`` standard errors, and ``|d| > d``; or the mean square around running_mean is off from
        running_var by as many, and r is outside ``[1 / r, r]``.
        """
        mean, square = self.certainty
        return ((mean > z) & (np.abs(self.channels.d) > d)) | ((square > z) & outside(self.channels.r, 1 / r, r))

    def distance(self, mean: Vector, var: Vector) -> Vector:
        """Squared Wasserstein distance to normal distributions of this mean and variance, in units of running_var.

        By channel. ``d^2`` alone would be served by any change that makes the input vanish.
        """
        spread = np.sqrt(var) - np.sqrt(np.maximum(self.running_var, 0))
        with np.errstate(invalid="ignore", divide="ignore"):
            apart: Vector = ((mean - self.running_mean) ** 2 + spread**2) / (np.maximum(self.running_var, 0) + self.eps)
        return apart

    @cached_property
    def variance_ratio(self) -> float:
        """Median over channels of ``running_var / var``: above 1 the layer expects more spread than there is."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return median((self.running_var + self.eps) / (self.channels.var + self.eps))


class Facts:
    """All that is known of a model, for the rules.

    ``batches`` are the images in each batch that the user made, in order; ``batch_size`` is that of training.
    ``built`` tells that a source of ours has just made it, so that nobody chose its mode; ``exported`` that it is a
    program of torch.export or TorchScript, whose mode is part of it; ``missing_keys`` are values that a checkpoint did
    not have.
    """

    def __init__(
        self,
        layers: tuple[LayerFacts, ...],
        *,
        graph: Graph | None = None,
        data: Data | None = None,
        batch_size: int | None = None,
        batches: tuple[int, ...] = (),
        averaged: bool = False,
        adapting: bool = False,
        built: bool = False,
        exported: bool = False,
        missing_keys: tuple[str, ...] = (),
        why: dict[str, str] | None = None,
    ) -> None:
        self.layers = layers
        self.graph: Any = graph
        self.data: Any = data
        self.batches = batches
        self.batch_size = batch_size
        self.averaged = averaged
        self.adapting = adapting
        self.built = built
        self.exported = exported
        self.missing_keys = missing_keys
        self.why = why or {}

    def having(self, *names: str) -> list[LayerFacts]:
        """Layers of which all these fields are known, and whose vectors fit their number of channels."""
        fitting = {unknown for unknown in self._patterns if unknown.isdisjoint(names)}
        if len(fitting) == len(self._patterns):
            return list(self._sound)
        return [bn for bn in self._sound if bn.unknown in fitting] if fitting else []

    def missing(self, needs: tuple[str, ...]) -> str | None:
        """Why a rule that needs these cannot look, if so: ``graph``, ``data`` or fields of a layer."""
        if not self.layers:
            return "there is no BatchNorm layer"
        for name in needs:
            if name in ("graph", "data") and getattr(self, name) is None:
                return self.why.get(name, f"there is no {name}")
        fields = _fields(needs)
        if fields and not self.having(*fields):
            unknown = [name for name in fields if not self.having(name)] or fields
            return f"not there, or not known, in any layer: {_listed(unknown)}"
        return None

    def unseen(self, needs: tuple[str, ...]) -> list[Silence]:
        """The layers that a rule with these needs passes over, by all that is unknown of them."""
        fields = _fields(needs)
        if not fields or (len(self._sound) == len(self.layers) and len(self.having(*fields)) == len(self.layers)):
            return []
        names = self.layers[0].stored.__struct_fields__
        reasons = {
            unknown: f"not there, or not known: {_listed([name for name in names if name in unknown])}"
            for unknown in self._patterns
            if not unknown.isdisjoint(fields)
        }
        found: dict[str, list[str]] = {}
        for bn in self.layers:
            misfit = None if bn.sound else "the vectors do not fit the number of channels"
            if reason := reasons.get(bn.unknown, misfit):
                found.setdefault(reason, []).append(bn.path)
        return [Silence(reason, tuple(paths)) for reason, paths in found.items()]

    @cached_property
    def _sound(self) -> list[LayerFacts]:
        return [bn for bn in self.layers if bn.sound]

    @cached_property
    def _patterns(self) -> set[frozenset[str]]:
        return {bn.unknown for bn in self.layers}

    @cached_property
    def comparable(self) -> list[LayerFacts]:
        """Layers whose statistics data can be held against; frozen ones at 0 and 1 have all in weight and bias."""
        return [
            bn
            for bn in self.having("running_var", "eps", "live")
            if bn.live.d_median is not None and bn.live.r_median is not None
            if not (bn.frozen and bn.statistics_at_start)
        ]

    @cached_property
    def misfits(self) -> tuple[LayerFacts, ...]:
        """Layers that do not fit the data by the measure of BN401, in call order."""
        return tuple(bn for bn in self.comparable if share(bn.far()) > 0.1) if self.data is not None else ()

    def begins(self, paths: Collection[str]) -> bool:
        """Whether what data show may begin in one of these layers: its statistics are certainly off, none before.

        By the z of BN401 alone, which a cause may be small enough to pass and yet spoil what stands behind it; or by
        values of which no output can be computed. What is not finite when it arrives began before.
        """
        comparable = {bn.path for bn in self.comparable}
        for bn in self.having("live") if self.data is not None else ():
            if bn.live.nonfinite:
                return False
            if bn.path in paths and (bn.broken or (bn.path in comparable and share(bn.far(d=0.0, r=1.0)) > 0.1)):
                return True
            if self.misfits and bn is self.misfits[0]:
                return False
        return False

    @cached_property
    def untrained(self) -> bool:
        """Whether every layer that can learn is as it was initialised."""
        return is_untrained(tuple(bn.stored for bn in self.layers))


_names_of = cache(frozenset[str])  # one object for all layers that are alike


def _fields(needs: tuple[str, ...]) -> list[str]:
    """Those needs that are fields of a layer."""
    return [name for name in needs if name not in ("graph", "data") and not name.endswith("?")]


def _listed(names: list[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def is_untrained(layers: tuple[BatchNormLayer, ...]) -> bool:
    """Whether statistics and affine parameters of all layers are at their initial values, and no batch was counted."""
    facts = [LayerFacts(layer) for layer in layers if layer.weight is not None or layer.running_var is not None]
    known = [bn for bn in facts if not bn.frozen] or facts
    return bool(known) and all(
        bn.affine_at_start
        and (bn.statistics_at_start or bn.stored.running_var is None)
        and not (bn.statistics_at_start and bn.stored.num_batches_tracked)
        for bn in known
    )


def median(values: Any) -> float:
    """Median of the finite values; NaN of none."""
    finite = np.asarray(values)[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else float("nan")


def share(mask: Any) -> float:
    """Share of true entries."""
    return np.count_nonzero(mask) / len(mask) if len(mask) else 0.0


def outside(values: Any, low: float, high: float) -> Any:
    """Mask of the values that are not between two bounds; NaN counts as inside."""
    return (np.asarray(values) < low) | (np.asarray(values) > high)


def _number(value: Any) -> float | int:
    return int(value) if isinstance(value, (bool, int, np.integer)) else float(value)
