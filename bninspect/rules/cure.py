"""What to do about statistics that do not fit: it was tried on the batch, and the advice says what that showed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from bninspect.rules.data_facts import Recalibrated
    from bninspect.rules.facts import Facts

_FROZEN = (
    "If it was trained with these statistics frozen (eval mode, FrozenBatchNorm), leave them: predictions tell more "
    "with them ({before:.2f} of 1) than with those of this batch ({after:.2f}). Else "
)


_ALIKE = (
    "If these images are all of one class, give a batch of every class: all predictions are alike, and sure, and what "
    "one class has are not the statistics of training. Else "
)


class Cure(NamedTuple):
    """What to do, and whether recalibration is a part of it."""

    text: str
    recalibrates: bool = True


def cure(facts: Facts, *, fits: float = 0.005, nearer: float = 0.5, told: float = 0.15) -> Cure | None:
    """What to do, by what statistics of the batch in place of the running ones did; ``None`` where it was not tried.

    - The layers behind then ``fits``, every one: the statistics alone were wrong. In 412 spoiled networks, really
      trained, where the distance was at most this, recalibration brought back 0.99 of the accuracy or more; wrong
      weights leave 0.009 to 1.
    - They keep more than ``nearer`` of their distance, and predictions tell less than ``told``: the weights are wrong.
      Of 76 such networks none came back.
    - Else it cannot be told from the batch: layers behind may have wrong statistics as well, or a weight may be wrong.
    """
    tried = facts.data.recalibrated
    if tried is None:
        return None
    if not tried.layers:
        return Cure(
            "recalibrate the statistics, and compare the accuracy: no layer behind could tell whether it helps."
        )
    left = f"median distance {tried.distance_after:.2g}, {tried.distance_before:.2g} before"
    if tried.distance_most <= fits:
        return Cure("recalibrate the statistics: with those of this batch all layers behind fit again.")
    if tried.distance_after > nearer * tried.distance_before and _tell_nothing(tried, told):
        return Cure(
            "look at the weights: recalibrating was tried and does not help. With the statistics of this batch the "
            f"layers behind stay as far off ({left}) and predictions tell little (information "
            f"{tried.decided_after:.2f} of 1). Is gamma of another convention (1 + gamma, a logarithm), or a weight "
            "new or of another model?",
            recalibrates=False,
        )
    before = _alike(tried) or _frozen(tried)
    return Cure(
        f"{before}recalibrate the statistics, and compare the accuracy: with those of this batch "
        f"{_still_off(tried, fits)}, {tried.farthest} by {tried.distance_most:.2g} ({left}). If the accuracy comes "
        "back, their statistics were wrong as well; if not, look for a weight that is new, of another model, or gamma "
        "of another convention."
    )


def _still_off(tried: Recalibrated, fits: float) -> str:
    most = tried.distance_after <= fits
    return "most layers behind fit, but some are still off" if most else "layers behind are still off"


def _tell_nothing(tried: Recalibrated, told: float) -> bool:
    """Whether predictions with the statistics of the batch are neither different nor sure."""
    known = tried.decided_after is not None and tried.sure_after is not None
    return known and max(tried.decided_after or 0, tried.sure_after or 0) < told


def _alike(tried: Recalibrated, decided: float = 0.1, sure: float = 0.5) -> str:
    before, alone = tried.decided_before, tried.sure_before
    return _ALIKE if before is not None and alone is not None and before < decided and alone > sure else ""


def _frozen(tried: Recalibrated, tell: float = 0.25, apart: float = 0.03) -> str:
    """In training with frozen statistics layers behind moved on: of 72 such networks all were farther ``apart``."""
    before, after = tried.decided_before, tried.decided_after
    if before is None or after is None or not before >= max(tell, after + 0.01) or tried.distance_most < apart:
        return ""  # NaN too
    return _FROZEN.format(before=before, after=after)
