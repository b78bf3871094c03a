"""Which rules are broken at a step: cheap looks at all layers, then the rules themselves at those that stand out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bninspect.layers import BatchNormLayer
from bninspect.report import Alarm, Place, WatchedLayer
from bninspect.rules import catalogue
from bninspect.rules.facts import Facts, Hit, LayerFacts
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bninspect.inspection.watch.history import Modes
    from bninspect.inspection.watch.segments import Segments
    from bninspect.observe.captured import Snapshot
    from bninspect.report import Vector
    from bninspect.rules._rule import Rule
    from bninspect.rules.step_facts import StepFacts

_SMALL = 1e-3  # of a gamma, in parts of the root mean square of its layer's
_PATIENCE = 20  # steps for which a gamma is small: one that changes its sign passes by
_SHOWN = 3  # layers that a warning names


class Judge:
    """Applies rules step after step, and tells each layer once for each code."""

    def __init__(self, layers: tuple[WatchedLayer, ...], segments: Segments) -> None:
        self._layers, self._segments = layers, segments
        self._told: dict[str, Vector] = {}
        self._models: set[tuple[str, str]] = set()
        self._dark = np.zeros(len(layers), np.int64)

    def state(self, number: int, now: Snapshot, modes: Modes) -> list[Alarm]:
        """What is wrong in the values of one moment."""
        values, segments = now.channels, self._segments
        var = values["running_var"]
        suspects = {}
        if not all(np.isfinite(vector).all() for name, vector in values.items() if not name.endswith("_grad")):
            broken = np.zeros(len(var), bool)
            for name in ("running_mean", "running_var", "weight", "bias"):
                broken |= ~np.isfinite(values[name])
            suspects["BN101"] = segments.total(broken) > 0
        with np.errstate(invalid="ignore"):
            suspects["BN102"] = segments.least(var) < 0
            suspects["BN103"] = segments.mean(np.abs(var) < 1e-12) > 0.5
        suspects["BN107"] = self._switched_off(values["weight"])
        return self._judged(number, suspects, now, modes)

    def settings(self, number: int, now: Snapshot, modes: Modes, updates: Vector) -> list[Alarm]:
        """What is wrong in the modes and settings of layers that take part in the training."""
        moving = updates > 0
        with np.errstate(invalid="ignore"):
            suspects = {
                "BN201": ~modes.flag & modes.stored,
                "BN203": moving & modes.frozen & modes.training & (modes.momentum != 0),
                "BN205": moving & (modes.momentum >= 0.5),
                "BN206": moving & modes.training & modes.tracking & (modes.momentum == 0),
            }
        return self._judged(number, suspects, now, modes)

    def training(self, facts: StepFacts) -> list[Alarm]:
        """What the rules on training say of a step."""
        alarms = []
        for rule in catalogue().values():
            if rule.in_training:
                hits = (outcome for outcome in rule(facts) if isinstance(outcome, Hit))
                alarms += self._alarms(facts.step, rule, hits)
        return alarms

    def _switched_off(self, weight: Vector) -> Vector:
        """Layers some of whose gammas have been small for a while; again after as long a while."""
        size = np.abs(weight)
        with np.errstate(all="ignore"):
            limit = _SMALL * np.sqrt(self._segments.mean(size * size))
            dark = self._segments.least(size) < limit
        self._dark = np.where(dark, self._dark + 1, 0)
        off: Vector = (self._dark > 0) & (self._dark % _PATIENCE == 0)
        return off

    def _judged(self, number: int, suspects: dict[str, Vector], now: Snapshot, modes: Modes) -> list[Alarm]:
        alarms = []
        for code, mask in suspects.items():
            new = mask & ~self._known(code)
            if new.any():
                facts = Facts(tuple(LayerFacts(self._layer(int(index), now, modes)) for index in np.flatnonzero(new)))
                rule = catalogue()[code]
                if facts.missing(rule.needs) is None:
                    alarms += self._alarms(number, rule, (hit for hit in rule(facts) if isinstance(hit, Hit)))
        return alarms

    def _layer(self, index: int, now: Snapshot, modes: Modes) -> BatchNormLayer:
        """A layer as the rules on models know it."""
        layer, channels = self._layers[index], self._segments.of(index)
        vectors: dict[str, Any] = {name: values[channels] for name, values in now.channels.items()}
        momentum = float(modes.momentum[index])
        return BatchNormLayer(
            path=layer.path,
            kind=layer.kind,
            num_features=layer.num_features,
            eps=layer.eps,
            momentum=None if np.isnan(momentum) else momentum,
            affine=layer.affine,
            track_running_stats=bool(modes.flag[index]),
            training=bool(modes.training[index]),
            weight=vectors["weight"] if layer.affine else None,
            bias=vectors["bias"] if layer.affine else None,
            running_mean=vectors["running_mean"] if modes.stored[index] else None,
            running_var=vectors["running_var"] if modes.stored[index] else None,
            num_batches_tracked=max(int(now.counts[index]), 0),
            trainable=not modes.frozen[index] if layer.affine else None,
        )

    def _known(self, code: str) -> Vector:
        return self._told.setdefault(code, np.zeros(len(self._layers), bool))

    def _alarms(self, number: int, rule: Rule, hits: Iterator[Hit]) -> list[Alarm]:
        """One alarm for all layers of one sentence, of those that were not told before."""
        groups: dict[tuple[str, str], list[Hit]] = {}
        for hit in hits:
            if self._is_new(rule.code, hit):
                groups.setdefault((hit.severity or rule.severity, hit.message), []).append(hit)
        sizes = {layer.path: layer.num_features for layer in self._layers}
        return [_alarm(number, rule, same, sizes) for same in groups.values()]

    def _is_new(self, code: str, hit: Hit) -> bool:
        if hit.place is None:
            key = code, hit.message
            new = key not in self._models
            self._models.add(key)
            return new
        index = next(at for at, layer in enumerate(self._layers) if layer.path == hit.place.path)
        known = self._known(code)
        new = not known[index]
        known[index] = True
        return new


def _alarm(number: int, rule: Rule, hits: list[Hit], sizes: dict[str, int]) -> Alarm:
    """Channels are not listed where they are all of a layer: a run has many lines."""
    places = [hit.place for hit in hits if hit.place is not None]
    first, advice = hits[0], rule.section("Do")
    return Alarm(
        step=number,
        code=rule.code,
        name=rule.name,
        severity=first.severity or rule.severity,
        message=first.message,
        told=first.told,
        fix=first.fix or advice[:1].upper() + advice[1:],
        evidence=first.evidence,
        layers=tuple(
            msgspec.structs.replace(place, channels=None) if len(place.channels or ()) == sizes[place.path] else place
            for place in places
        ),
    )


def _name(place: Place, *, alone: bool) -> str:
    name = printable(place.path or "the model")
    if not alone or not place.channels:
        return name
    more = len(place.channels) - _SHOWN
    channels = ", ".join(map(str, place.channels[:_SHOWN])) + (f" and {more} more" if more > 0 else "")
    return f"{name} [{'channels' if len(place.channels) > 1 else 'channel'} {channels}]"


def words(alarm: Alarm) -> str:
    """An alarm as the text of a warning."""
    names = ", ".join(_name(place, alone=len(alarm.layers) == 1) for place in alarm.layers[:_SHOWN]) or "the model"
    more = len(alarm.layers) - _SHOWN
    where = f"{names} and {more} more layers" if more > 0 else names
    told = alarm.layers[0].told if alarm.layers else alarm.told
    return (
        f"step {alarm.step}: {alarm.code} {alarm.message}: {where}{f' ({told})' if told else ''}. {alarm.fix} "
        f"(bninspect rule {alarm.code} explains)"
    )
