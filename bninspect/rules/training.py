"""BN5xx: what goes wrong while a model trains, told at the step by bninspect.watch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bninspect.rules._rule import rule
from bninspect.rules.facts import Hit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bninspect.rules.step_facts import StepFacts


@rule("warning", "steps")
def bn501_repeated_updates(facts: StepFacts, *, row: int = 2) -> Iterator[Hit]:
    """Statistics are updated more than once a step.

    Why: activation checkpointing runs its block again in the backward, and each forward in train mode moves the
    averages, also one for a second view, for a log or under no_grad(). The averages forget faster than the momentum
    says, and other forwards may be of other data.

    Do: if gradients are accumulated over k batches, that is how it should be: say accumulation=k. Otherwise run extra
    forwards in eval mode, or set the momentum to what makes up for it, 1 - (1 - momentum)^(1 / updates).

    Hit: torch.utils.checkpoint around a block with BatchNorm; model(x1) and model(x2) before one optimizer.step().

    Miss: a step that a gradient scaler skipped, so that the next one has two updates.

    Thresholds: row, steps in a row.
    """
    again = facts.repeated >= row
    if not again.any():
        return
    updated = facts.updates[facts.updates > 0]
    least = max(int(updated.min()), facts.accumulation)
    others = again & (facts.updates > least)
    corrected = 1 - (1 - facts.momentum) ** (facts.accumulation / np.maximum(facts.updates, 1))
    text = "statistics are updated more often in a step than those of other layers: checkpointing, or several calls"
    vectors = {"updates": facts.updates, "momentum": facts.momentum, "momentum_to_make_up": corrected}
    yield from facts.hits(others, text, None, _repeated, **vectors)
    if not others.any() or least > facts.accumulation:
        text = "the statistics of all layers are updated several times a step"
        numbers: dict[str, float | int | None] = {"updates": least}
        momenta = np.unique(facts.momentum[np.isfinite(facts.momentum)])
        if len(momenta) == 1:
            numbers["momentum"] = float(momenta[0])
            numbers["momentum_to_make_up"] = float(1 - (1 - momenta[0]) ** (facts.accumulation / least))
        yield Hit(message=text, told=_repeated(numbers), evidence=numbers)


def _repeated(numbers: dict[str, Any]) -> str:
    text = f"{numbers['updates']} updates a step"
    if numbers.get("momentum") and "momentum_to_make_up" in numbers:
        text += f" at momentum {numbers['momentum']:g}; {numbers['momentum_to_make_up']:.3g} makes up for it"
    return text


@rule("warning", "steps")
def bn502_stalled_statistics(facts: StepFacts, *, row: int = 100) -> Iterator[Hit]:
    """The statistics of a layer have stopped moving, while those of others move.

    Why: the layer is in train mode and takes no part any more: its branch is no longer run, or something else runs in
    its place. Its statistics stay those of that day, and evaluation may use them.

    Do: see whether the branch is meant to rest; if so, put it into eval mode or take it out.

    Hit: an auxiliary head that is left out of the forward from some epoch on.

    Miss: a layer that never ran; stochastic depth; a step without any update, of accumulated gradients.

    Thresholds: row, steps in a row.
    """
    rests = (facts.still >= row) & facts.training & facts.tracking & (facts.momentum != 0)
    text = "statistics have stopped moving, while those of other layers move"
    yield from facts.hits(rests, text, None, lambda numbers: f"for {numbers['steps']} steps", steps=facts.still)


@rule("warning", "steps")
def bn503_eval_mode_in_training(facts: StepFacts) -> Iterator[Hit]:
    """A layer is in eval mode while its model trains.

    Why: it normalises by running statistics that no longer follow the weights, and gradients do not pass through the
    statistics. A validation that called model.eval() and no train() afterwards does it; so does a loaded model that
    comes in eval mode.

    Do: call model.train() at the beginning of each epoch. Where layers are frozen on purpose, freeze gamma and beta as
    well, which is silent; else leave it.

    Hit: model.eval() after the first epoch, and no model.train().

    Miss: a frozen layer, whose gamma and beta take no gradients. Some layers in eval mode from the first step on are
    told as info.
    """
    resting = ~facts.training & facts.tracking & facts.learning
    yield from facts.hits(resting & facts.began, "the layer was put into eval mode while its model trains")
    never = resting & ~facts.began
    if never.any():
        whole = not (facts.training | facts.began).any()
        text = "the model trains in eval mode" if whole else "the layer is in eval mode while its model trains"
        yield from facts.hits(never, text, "warning" if whole else "info")


@rule("warning", "steps")
def bn504_exploding_variance(
    facts: StepFacts, *, factor: float = 100.0, first: float = 1e4, least: float = 1.0
) -> Iterator[Hit]:
    """The variance at a layer has grown a hundredfold within a hundred steps.

    Why: BatchNorm hides it: its output looks as before, while the weights before it run away and their gradients
    vanish. A learning rate that is too large does it, or inputs that are suddenly scaled otherwise.

    Do: lower the learning rate or warm it up, clip gradients; look at the batches of the steps before.

    Hit: a learning rate of 100 for a net that trains with 0.1.

    Miss: the first steps, in which running_var leaves its initial value of 1 and weights leave theirs; a variance that
    grows from 1e-6 to 1e-3.

    Thresholds: factor, over the least of the last hundred steps without the first thirty of the run; first, over the
    least with them: nets that train well grow up to 750-fold there and 70-fold later; least, below which no variance
    has exploded.
    """
    before = np.where(facts.var > factor * facts.var_before, facts.var_before, facts.var_first)
    grown = (facts.var > factor * facts.var_before) | (facts.var > first * facts.var_first)
    text = "the variance has grown a hundredfold within a hundred steps"
    large = grown & (facts.var > least) & np.isfinite(facts.var)
    yield from facts.hits(large, text, None, _grown, var=facts.var, var_before=before)


def _grown(numbers: dict[str, Any]) -> str:
    return f"from {numbers['var_before']:.3g} to {numbers['var']:.3g}, the mean over its channels"


@rule("warning", "steps")
def bn505_ranks_differ(facts: StepFacts, *, d: float = 0.5, r: float = 1.5) -> Iterator[Hit]:
    """The processes that train one model are given different data.

    Why: without SyncBatchNorm each process normalises and averages by its own batches, and the file that is saved holds
    the statistics of the first. Where processes get data of different kinds, they fit none of the others.

    Do: shuffle the data before they are divided (DistributedSampler with set_epoch), or convert with
    SyncBatchNorm.convert_sync_batchnorm.

    Hit: one process with images that are twice as bright; SyncBatchNorm layers whose statistics differ in any bit.

    Miss: processes whose batches are of the same kind and differ by chance; less than twenty steps.

    Thresholds: d, of the means of their batches over some forty steps, in running deviations; r, of the deviations;
    both as medians over a layer's channels.
    """
    apart = facts.apart
    if apart is None:
        return
    text = "a SyncBatchNorm layer has other statistics on other processes"
    yield from facts.hits(facts.synchronised & apart.unequal & facts.training, text)
    far = ~facts.synchronised & ((apart.d > d) | (apart.r > r))
    text = "processes are given different data"
    yield from facts.hits(far, text, None, _apart, d=apart.d, r=apart.r)


def _apart(numbers: dict[str, Any]) -> str:
    return f"means are {numbers['d']:.2g} deviations apart, deviations {numbers['r']:.2g} times as large"
