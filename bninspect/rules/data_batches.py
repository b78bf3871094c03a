"""BN405 to BN408: batches that are too small, or that are not drawn at random."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bninspect.rules._rule import rule
from bninspect.rules.facts import FEW, Hit, Silence, outside, share

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bninspect.report import Severity
    from bninspect.rules.facts import Facts


@rule("error", "graph")
def bn405_too_few_values(facts: Facts, *, few: float = 8.0) -> Iterator[Hit | Silence]:
    """A layer normalises too few values per channel.

    Why: of one value there is no variance, and torch raises an error in training; two values always become +1 and -1.

    Do: use larger batches, drop_last=True in the loader (the last batch is often the culprit), or GroupNorm.

    Hit: the pooled branch of deeplabv3, which has one value per image, with a batch of 1 or 2.

    Miss: a batch of 1 where each image has many positions.

    Thresholds: few, values per channel (images times positions).
    """
    if facts.batch_size is None:
        yield Silence("the batch size of training is not known: give batch_size (--batch-size)")
        return
    for bn in facts.having("node"):
        values = facts.batch_size * bn.node.values_per_image
        if bn.frozen or values >= few:
            continue
        severity: Severity = "error" if values <= 1 else "warning"
        text = "one value per channel: training raises an error" if values <= 1 else "few values per channel"
        needed = -(-few // bn.node.values_per_image)
        yield bn.hit(text, None, severity, values_per_channel=values, batch_size=facts.batch_size, needed=int(needed))


@rule("warning", "data")
def bn406_noisy_batch_statistics(facts: Facts, *, most: float = 0.1) -> Iterator[Hit | Silence]:
    """Statistics of single batches are noisy at this batch size.

    Why: training normalises by statistics that change from batch to batch by more than a tenth of the signal (as
    variances), while evaluation uses their average. Noise is also a regulariser, so the number is what matters.

    Do: larger batches, SyncBatchNorm, GroupNorm, or frozen statistics.

    Hit: a batch of 2 in the last stage of a ResNet.

    Miss: the same with a batch of 32.

    Thresholds: most, the median over channels of Var(mean of batch) / var + Var(var of batch) / (4 var^2), measured
    over batches with batch statistics upstream, as in training, and scaled by 1 / size to the batch size of training.
    """
    if facts.data.noise is None:
        yield Silence(facts.data.why.get("noise", "the noise of batch statistics was not measured"))
        return
    for bn in facts.layers:
        noise = facts.data.noise.get(bn.path)
        if noise is not None and noise > most:
            yield bn.hit("batch statistics are noisy at this batch size", noise=noise, batch_size=facts.batch_size)


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
        yield Hit(message="the images of a batch belong together: batches differ from each other", evidence=numbers)


@rule("warning", "data", "running_var")
def bn408_between_batch_variance_missing(
    facts: Facts, *, total: float = 1.5, within: float = 1.5, channels: float = 0.1
) -> Iterator[Hit | Silence]:
    """running_var is the variance within batches, and the data vary between batches as well.

    Why: running_var averages variances of single batches. Where batches differ from each other, the variance of all
    data is larger, and evaluation is not normalised.

    Do: shuffle in training; recalibrate over all data at once.

    Hit: a layer trained on batches of one domain each.

    Miss: batches that are alike.

    Thresholds: total, variance of all data over running_var; within, bound of the ratio of the variance within batches
    to running_var; channels, the share that must show it.
    """
    if not facts.data.within:
        yield Silence(facts.data.why.get("within", "batches were not compared"))
        return
    for bn in facts.comparable:
        if bn.path not in facts.data.within or facts.data.num_images < FEW:
            continue
        inner = facts.data.within[bn.path] / (bn.running_var + bn.eps)
        low = (bn.channels.r**2 > total) & ~outside(inner, 1 / within, within)
        if share(low) > channels:
            yield bn.hit("running_var lacks the variance between batches", low, r_max=bn.live.r_max)
