"""BN405 to BN408: batches that are too small, or that are not drawn at random."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bninspect.rules._rule import rule
from bninspect.rules.facts import FEW, Hit, Silence, outside, share

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bninspect.report import Severity
    from bninspect.rules.facts import Facts, LayerFacts


@rule("error", "graph")
def bn405_too_few_values(facts: Facts, *, few: float = 8.0) -> Iterator[Hit | Silence]:
    """A layer normalises too few values per channel.

    Why: of one value there is no variance, and torch raises an error in training; two values always become +1 and -1.

    Do: use larger batches, drop_last=True in the loader (the last batch is often the culprit), or GroupNorm.

    Hit: the pooled branch of deeplabv3, which has one value per image, with a batch of 1 or 2; a loader whose last
    batch has one image.

    Miss: a batch of 1 where each image has many positions.

    Thresholds: few, values per channel (images times positions). One smaller batch among others is an error where it
    has one value, and else only told.
    """
    if facts.batch_size is None:
        yield Silence("the batch size of training is not known: give batch_size (--batch-size), or batches as a loader")
        return
    for bn in facts.having("node"):
        if bn.frozen or not bn.node.values_per_image:  # a head that found nothing to look at
            continue
        values = facts.batch_size * bn.node.values_per_image
        needed = int(-(-few // bn.node.values_per_image))
        numbers = {"values_per_channel": values, "batch_size": facts.batch_size, "needed": needed}
        told = f"{values:,.0f} values per channel in a batch of {facts.batch_size:,}; {needed:,} images would do"
        if values <= 1:
            yield bn.hit("one value per channel: training raises an error", None, "error", **numbers)
        elif values < few:
            yield bn.hit("few values per channel", None, "warning", told=told, **numbers)
        else:
            yield from _odd_one(facts, bn, few)


def _odd_one(facts: Facts, bn: LayerFacts, few: float) -> Iterator[Hit]:
    """The smallest batch, where the usual one is large enough."""
    smallest = min(facts.batches, default=facts.batch_size)
    values = smallest * bn.node.values_per_image
    if values >= few:
        return
    number, last = facts.batches.index(smallest) + 1, len(facts.batches)
    which = f"the last batch (of {last:,})" if number == last else f"batch {number:,} of {last:,}"
    images = "1 image" if smallest == 1 else f"{smallest} images"
    fix = "set drop_last=True in the DataLoader, or choose a batch size that leaves no small batch over."
    numbers = {"values_per_channel": values, "batch_size": smallest}
    if values <= 1:
        text = f"{which} has {images}, and so one value per channel: training raises an error there"
        yield bn.hit(text, None, "error", fix, **numbers)
    else:
        yield bn.hit(f"{which} has {images}, and so few values per channel", None, "info", fix, **numbers)


@rule("warning", "data")
def bn406_noisy_batch_statistics(facts: Facts, *, most: float = 0.1, errors: float = 1.0) -> Iterator[Hit | Silence]:
    """Statistics of single batches are noisy at this batch size.

    Why: training normalises by statistics that change from batch to batch by more than a tenth of the signal (as
    variances), while evaluation uses their average. Noise is also a regulariser, so the number is what matters.

    Do: larger batches, SyncBatchNorm, GroupNorm, or frozen statistics.

    Hit: a batch of 2 in the last stage of a ResNet.

    Miss: the same with a batch of 32.

    The batch size is the one that was told, or the usual one of the batches that were given. A loader of single images
    is often one for evaluation: what it shows is only told.

    Thresholds: most, the median over channels of Var(mean of batch) / var + Var(var of batch) / (4 var^2), measured
    over batches with batch statistics upstream, as in training, and scaled by 1 / size to the batch size of training;
    errors, how many standard errors, each sqrt(2 / (batches - 1)) of it, it has to be above that.
    """
    if facts.data.noise is None or facts.data.noise_batches < 2:
        yield Silence(facts.data.why.get("noise", "the noise of batch statistics was not measured"))
        return
    certain = most * (1 + errors * (2 / (facts.data.noise_batches - 1)) ** 0.5)
    for bn in facts.layers:
        noise = facts.data.noise.get(bn.path)
        if noise is not None and noise > certain:
            told = f"their noise is {noise:.0%} of the variance in batches of {facts.batch_size:,}"
            text = "batch statistics are noisy at this batch size"
            severity: Severity = "info" if facts.batches and facts.batch_size == 1 else "warning"
            yield bn.hit(text, None, severity, told=told, noise=noise, batch_size=facts.batch_size)


@rule("warning", "data")
def bn407_non_iid_batches(facts: Facts, *, most: float = 0.5) -> Iterator[Hit | Silence]:
    """The images of a batch belong together.

    Why: batches sorted by class or domain have statistics of their own, which training normalises away and
    evaluation does not.

    Do: shuffle, or keep separate statistics for each domain.

    Hit: a loader that gives one class after the other.

    Miss: shuffled batches; a tensor that is split for memory's sake, which says nothing about training.

    Thresholds: most, share of the first layer's channels whose image means differ between batches (F test, 0.001).
    """
    if facts.data.between is None:
        yield Silence(facts.data.why.get("between", "batches were not compared"))
    elif facts.data.between >= most:
        numbers = {"share_of_channels": facts.data.between, "batches": facts.data.batches}
        told = f"{facts.data.between:.0%} of the first layer's channels differ between batches"
        text = "the images of a batch belong together: batches differ from each other"
        yield Hit(message=text, told=told, evidence=numbers)


@rule("warning", "data", "running_var")
def bn408_between_batch_variance_missing(
    facts: Facts, *, total: float = 1.5, within: float = 1.5, channels: float = 0.1, z: float = 5.0
) -> Iterator[Hit | Silence]:
    """running_var is the variance within batches, and the data vary between batches as well.

    Why: running_var averages variances of single batches. Where batches differ from each other, the variance of all
    data is larger, and evaluation is not normalised.

    Do: shuffle in training; recalibrate over all data at once.

    Hit: a layer trained on batches of one domain each.

    Miss: batches that are alike.

    Thresholds: total, variance of all data over running_var; within, bound of the ratio of the variance within batches
    to running_var; channels, the share that must show it; z, the standard errors over images that the variance must be
    off by, as in BN401.
    """
    if not facts.data.within:
        yield Silence(facts.data.why.get("within", "batches were not compared"))
        return
    for bn in facts.comparable:
        if bn.path not in facts.data.within or facts.data.num_images < FEW:
            continue
        inner = facts.data.within[bn.path] / (bn.running_var + bn.eps)
        low = (bn.channels.r**2 > total) & ~outside(inner, 1 / within, within) & (bn.certainty[1] > z)
        if share(low) > channels:
            told = f"have up to {(bn.channels.r[low] ** 2).max():.2g} times the variance of running_var"
            yield bn.hit("running_var lacks the variance between batches", low, told=told, r_max=bn.live.r_max)
