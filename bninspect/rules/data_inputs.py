"""BN402: whether a known change of the input puts the first layer right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bninspect.rules._rule import rule
from bninspect.rules.facts import FEW, Hit, Silence

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bninspect.report import Severity
    from bninspect.rules.data_facts import Candidate
    from bninspect.rules.facts import Facts


@rule("warning", "data", explains=("BN401", "BN404"))
def bn402_input_preprocessing(
    facts: Facts, *, better: float = 4.0, fits: float = 0.08, channels: float = 0.1
) -> Iterator[Hit | Silence]:
    """The input was prepared differently in training.

    Why: the first layer already sees other statistics, and a known change of the input puts them right.

    Do: apply the change that is named to the input, as training did.

    Hit: a network trained on ImageNet-normalised images, fed with images in [0, 1]; one trained on sound that was
    standardised sample by sample, fed with raw sound. Scales, logarithms and standardising are tried on any floats; on
    images the means of known data sets, the order of colours, inverted images, and axes that were reshaped and not
    transposed. Each of several inputs is tried by itself, on the first layer that it reaches.

    Miss: a mismatch that begins deeper; input of integers. Standardising by the input's own numbers is named only where
    no known change serves, for it serves many. Below 32 images it is only told.

    Thresholds: better, how many times the distance of the first layer has to drop: d^2 and the squared difference of
    standard deviations in units of running_var, mean over channels; fits, the most that may be left of it (right
    changes leave up to 0.05 on 32 images). (d^2 alone drops as far where the change makes the image vanish; and images
    12 times too bright are 121 times nearer once they have vanished, and fit no better.) channels, the share that may
    then still be off as far as BN401 has it, or certainly by half as much: of changes that serve in part, such as
    swapped colours for inverted images, more are. Of several that serve, the one after which the layers behind fit best
    is named, and any that is as good.
    """
    if facts.data.candidates is None:
        yield Silence(facts.data.why.get("candidates", "no change of the input was tried"))
        return
    serving = [
        one
        for one in facts.data.candidates
        if one.after * better <= one.before and one.after <= fits and one.off <= channels
    ]
    for place in sorted({one.place for one in serving}):
        yield _hit(facts, [one for one in serving if one.place == place])


def _hit(facts: Facts, serving: Sequence[Candidate]) -> Hit:
    best = min(serving, key=_rank)
    names = " or: ".join(one.name for one in sorted(serving, key=_rank) if _as_good(one, best))
    which = f" of input {best.place}" if best.place else ""
    severity: Severity = "warning" if facts.data.num_images >= FEW else "info"
    return Hit(
        message=f"the first layer fits the data after this change{which}: {names}",
        severity=severity,
        told=f"the distance of {best.layer or 'the layer'} drops from {best.before:.3g} to {best.after:.3g}",
        evidence={"distance_before": best.before, "distance_after": best.after},
        fix="apply it, if training did; a shift of the domain looks the same." if best.fitted else None,
    )


def _rank(one: Candidate) -> tuple[bool, float, float]:
    return one.fitted, one.behind if one.behind == one.behind else one.after, one.after


def _as_good(one: Candidate, best: Candidate, times: float = 1.5, beyond: float = 0.005) -> bool:
    """Whether neither the first layer nor those behind tell which of two it was."""
    fitted, behind, after = _rank(one)
    _, best_behind, best_after = _rank(best)
    near = behind <= times * best_behind + beyond and after <= times * best_after + beyond
    return one is best or (fitted == best.fitted and near)
