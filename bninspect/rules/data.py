"""BN4xx: what real data show. Silent for made-up batches and untrained models, where nothing would mean anything."""

from __future__ import annotations

from math import isfinite, log
from typing import TYPE_CHECKING, Any

import numpy as np

from bninspect.report import bounds
from bninspect.rules import words
from bninspect.rules._rule import rule
from bninspect.rules.cure import cure
from bninspect.rules.facts import FEW, Hit, Silence, median, outside, share

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bninspect.report import Severity, Vector
    from bninspect.rules.facts import Facts, LayerFacts


@rule("error", "data", "running_var", "eps", remedy="recalibrate")
def bn401_running_stats_mismatch(
    facts: Facts, *, z: float = 5.0, d: float = bounds.D, r: float = bounds.R, channels: float = 0.1
) -> Iterator[Hit]:
    """The running statistics are not those of the data.

    Why: evaluation normalises by statistics that this batch does not have; a network that is good in training is bad
    in evaluation. All layers run with running statistics here, as in evaluation.

    Do: recalibrate the statistics; then look for the cause: only the first layer: preprocessing (BN402); growing with
    depth: averaged weights (BN403); behind dropout (BN302); few updates (BN113).

    Hit: weights trained on images in [0, 1], fed with images in [0, 255].

    Miss: a batch of the training distribution. A true shift of the domain does hit: that is the message. Below 32
    images it is only told, and of FrozenBatchNorm2d, whose weights were trained on with statistics that stood still.

    Before recalibration is advised it is tried, with statistics of the batch. Where all layers behind then fit, it is
    the cure; where they do not and the predictions tell nothing, the weights are named instead; else it cannot be told
    from the batch, and both are named.

    Thresholds: a channel counts where the mean is off by z standard errors over images and |d| exceeds d (0.5 moves a
    ReLU's rate from 50 to 69 %), or the mean square around running_mean by as many and the root r of the ratio of
    variances is outside [1 / r, r]; channels, the share of a layer that must count. z = 5 gives 0.015 false channels in
    all 26,560 of a ResNet-50, if the errors are right. Where data vary less than running_var says, they are scaled up
    to it: the images that have most of a variance may be rare, and none was drawn. (Errors of the sample's own spread
    hit 64 layers in 8 of 46 healthy networks, these none.) It is an error where besides the median r is outside
    [1/3, 3] or the median |d| above 5, the final clips of Batch Renormalization.
    """
    fix, runs = cure(facts) or (None, True)
    for bn in facts.comparable:
        far = bn.far(z, d, r)
        if share(far) <= channels:
            continue
        worse = outside(bn.live.r_median, 1 / bounds.R_BROKEN, bounds.R_BROKEN)
        broken = bool(worse) or bn.live.d_median > bounds.D_BROKEN
        told_only = facts.data.num_images < FEW or bn.frozen
        severity: Severity = "info" if told_only else "error" if broken else "warning"
        text = "the running statistics are far from those of the data"
        if broken:
            text = "the running statistics have nothing to do with the data"
        worst = _greatest(bn.certainty[1][far])
        told = words.misfit(bn, far)
        yield bn.hit(text, far, severity, fix, told, runs=runs, d_max=bn.live.d_max, d_median=bn.live.d_median,
                     r_median=bn.live.r_median, z_max=bn.live.z_max, z_square_max=worst)  # fmt: skip


def _greatest(values: Any) -> float | None:
    """The greatest finite value; an error of zero, as of images that are all the same, makes infinite ones."""
    finite = values[values < float("inf")]
    return float(finite.max()) if len(finite) else None


@rule("warning", "data?", "running_mean", "running_var", remedy="recalibrate")
def bn403_stale_statistics_over_depth(
    facts: Facts, *, first: float = 1.5, last: float = 2.0, errors: float = 5.0, layers: int = 6
) -> Iterator[Hit | Silence]:
    """The running statistics fit at the first layer, and less and less with depth.

    Why: the weights changed after the statistics were taken: averaged, merged or federated weights, of which only the
    parameters were combined. The variance that reaches each layer drifts away from the stored one.

    Do: recalibrate the statistics on training data.

    Hit: an average of two networks' parameters beside the statistics of one of them.

    Miss: a shift of the domain, which shows at the first layer; statistics that are off in one layer only.

    Weights that count their averages (n_averaged) hit at any layer that does not fit; without data they are told.

    Thresholds: first, bound of r at the first layer, as in BN401 (the average of two unrelated networks has 0.71
    there); last, bound of the median r of the last quarter; errors, the slope of the median log r over depth in its
    standard errors; layers, the least number of layers. Half of the last quarter must be off by the measure of BN401.
    The slope alone exceeds even 5 standard errors in 34 of 46 healthy networks on 48 images.
    """
    if facts.data is None:
        if facts.averaged and not facts.untrained:
            yield Hit(message="the weights are averaged; their statistics may be those of one of them", severity="info")
        else:
            yield Silence(facts.why.get("data", "there is no data"))
        return
    found = facts.comparable
    if facts.averaged and any(share(bn.far()) > 0.1 for bn in found) and facts.data.num_images >= FEW:
        yield Hit(message="averaged weights carry statistics that were not averaged with them")
        return
    if len(found) < layers or facts.data.num_images < FEW:
        yield Silence(f"needs {layers} layers and {FEW} images")
        return
    ratios = [bn.live.r_median for bn in found]
    slope, significance = _trend([log(max(ratio, 1e-30)) for ratio in ratios])
    end = median(ratios[-(len(ratios) // 4) :])
    deep = found[-(len(found) // 4) :]
    certain = share([share(bn.far(r=last)) > 0.1 for bn in deep]) >= 0.5
    drifts = not outside(ratios[0], 1 / first, first) and outside(end, 1 / last, last)
    if certain and drifts and abs(significance) > errors:
        numbers = {"r_median_first": ratios[0], "r_median_last": end, "slope_log_r": slope}
        told = f"the spread is {ratios[0]:.2g} times as expected at the first layer, and {end:.2g} times at the last"
        yield Hit(message="the running statistics fit less and less with depth", told=told, evidence=numbers)


def _trend(values: Any) -> tuple[float, float]:
    """Slope of a straight line through values in their order, and the slope in its standard errors."""
    y = np.asarray(values, np.float64)
    x = np.arange(len(y)) - (len(y) - 1) / 2
    slope = float((x * y).sum() / (x * x).sum())
    rest = y - y.mean() - slope * x
    error = float(np.sqrt((rest**2).sum() / max(len(y) - 2, 1) / (x * x).sum()))
    return slope, slope / error if error else float(np.copysign(np.inf, slope))


@rule("warning", "data", remedy="recalibrate")
def bn404_mode_changes_predictions(
    facts: Facts,
    *,
    most: float = 0.1,
    beyond: float = 2.0,
    beyond_few: float = 3.0,
    few: int = 32,
    z: float = 5.0,
    channels: float = 0.1,
) -> Iterator[Hit | Silence]:
    """Predictions differ between running and batch statistics.

    Why: the network does not compute in evaluation what it learned in training. Dropout is off in both.

    Do: recalibrate the statistics; BN401 tells which layers are off.

    Hit: a network whose running statistics were taken at another learning stage.

    Miss: small batches, whose statistics are noisy: drawing other images would change as much. Where training has
    batches of one image, each is its own batch, and nothing is drawn; a loader of single images alone is no
    proof of it: then it is only told, and not where running_var is clearly the variance of all images and not that
    within each.

    Thresholds: most, share of images whose top prediction changes; beyond, how many times that and the change of the
    scores have to exceed their sampling noise, which is measured in disjoint groups of fewer images; beyond_few, the
    same where a layer has fewer than few values per channel in a batch, as behind a pooling to one position, for their
    noise does not shrink as that of many (a healthy deeplabv3 with 16 values: 2.02 and 2.27 times); z, the standard
    errors over images that a mean or a mean square must be off by, in more than the share channels of some layer, since
    few images may all lack what is rare; of as many images as are compared, for a shift that only thousands show is
    less than the noise of a batch. (Of 3,240 looks at healthy trained networks the noise alone lets 6 pass, z
    alone 14, both none. The share most alone is passed by all healthy networks with an untrained last layer.)
    """
    modes = facts.data.modes
    if modes is None:
        yield Silence(facts.data.why.get("modes", "predictions were not compared"))
        return
    limit = z * (facts.data.num_images / modes.images) ** 0.5
    certain = modes.batch_size == 1 or any(share(bn.far(limit, d=0, r=1)) > channels for bn in facts.comparable)
    seen_singly = modes.batch_size == 1 and len(facts.batches) > 0
    if seen_singly and _of_batches(facts):
        yield Silence("the loader gives single images, and the running statistics are those of larger batches")
        return
    times = beyond if modes.values >= few else beyond_few
    beyond_noise = modes.disagreement > times * modes.disagreement_noise and modes.change > times * modes.change_noise
    if modes.disagreement > most and beyond_noise and certain:
        numbers = {
            "disagreement": modes.disagreement,
            "disagreement_noise": modes.disagreement_noise,
            "change": modes.change if isfinite(modes.change) else None,
            "change_noise": modes.change_noise,
            "batch_size": modes.batch_size,
        }
        of_what = "those of single images" if modes.batch_size == 1 else "batch statistics"
        text = f"running statistics and {of_what} give different predictions"
        told = f"{modes.disagreement:.0%} of the images get another top prediction"
        severity: Severity = "info" if seen_singly else "warning"
        fix, runs = cure(facts) or (None, True)
        yield Hit(message=text, told=told, severity=severity, evidence=numbers, fix=fix, runs=runs)


def _of_batches(facts: Facts, fits: float = 0.3, apart: float = 0.4) -> bool:
    """Whether some layer's running_var is the variance of all images, and not that within the loader's single ones."""
    for bn in facts.comparable:
        if bn.path in facts.data.within:
            all_of_them, within = _apart(bn, bn.channels.var), _apart(bn, facts.data.within[bn.path])
            if all_of_them < fits and within - all_of_them > apart:
                return True
    return False


def _apart(bn: LayerFacts, var: Vector) -> float:
    ratio = (np.maximum(bn.running_var, 0) + bn.eps) / (var + bn.eps)
    return median(np.abs(np.log(ratio)))


@rule("warning", "data")
def bn409_padding_in_statistics(facts: Facts, *, most: float = 0.05) -> Iterator[Hit | Silence]:
    """Padding counts in the statistics.

    Why: samples of different length are padded with a constant, and BatchNorm averages over it: the variance is too
    small, and depends on what a sample was batched with.

    Do: mask the padding in the statistics, or put samples of like length into one batch.

    Hit: sequences of 30 to 100 steps, padded with zeros to 100.

    Miss: samples of one length; the same padding everywhere. Images with constant borders are told as info.

    Thresholds: most, share of all positions.
    """
    padding = facts.data.padding
    if padding is None:
        yield Silence(facts.data.why.get("padding", "the input of the first layer has no positions"))
    elif padding.share > most and padding.shortest < padding.longest:
        severity: Severity = "info" if padding.image else "warning"
        numbers = {"share": padding.share, "shortest": padding.shortest, "longest": padding.longest}
        told = f"{padding.share:.0%} of all positions, from {padding.shortest} to {padding.longest} in a sample"
        text = "constant ends of the samples count in the statistics"
        yield Hit(message=text, told=told, severity=severity, evidence=numbers)


@rule("info", "data", "eps")
def bn410_constant_channel_in_batch(facts: Facts, *, dust: float = 4 * 2.0**-24, below: float = 0.01) -> Iterator[Hit]:
    """A channel does not vary in the data.

    Why: training would amplify rounding errors by up to 1 / sqrt(eps).

    Do: prune the channel, or see what feeds it.

    Hit: an input channel that is the same everywhere.

    Miss: a small but honest variance.

    Thresholds: dust, the standard deviation relative to the mean that float32 rounding leaves; below, variance in units
    of eps.
    """
    for bn in facts.having("eps", "live"):
        var = bn.channels.var
        constant = (var <= (dust * bn.channels.mean) ** 2) | (var < below * bn.eps)
        if constant.any():
            gain = bn.eps**-0.5 if bn.eps > 0 else None
            told = f"have a variance of at most {var[constant].max():.2g}"
            text = "channels do not vary in the data"
            yield bn.hit(text, constant, told=told, var_min=bn.live.var_min, eps=bn.eps, gain=gain)


@rule("error", "data")
def bn411_non_finite_activations(facts: Facts, *, limit: float = 65504 / 8) -> Iterator[Hit]:
    """The data give NaN or infinite values at a layer, or nearly overflow float16.

    Why: one such value spoils the statistics of its channel, in training for ever. The first layer in call order is
    where to look.

    Do: look at what stands before the first layer named; run it in float32.

    Hit: a batch with one NaN; an overflow in float16.

    Miss: large values in float32 or bfloat16.

    Thresholds: limit, an eighth of float16's largest number.
    """
    for bn in facts.having("live"):
        if bn.live.nonfinite:
            told = f"hold {bn.live.nonfinite:,} NaN or infinite values"
            broken = bn.channels.nonfinite > 0
            yield bn.hit("NaN or infinite activations", broken, told=told, nonfinite=bn.live.nonfinite)
        elif bn.live.dtype == "float16" and max(abs(bn.live.min or 0), abs(bn.live.max or 0)) > limit:
            yield bn.hit("activations are close to the largest number of float16", None, "error",
                         min=bn.live.min, max=bn.live.max)  # fmt: skip


@rule("info", "data", "running_var", "eps", "graph")
def bn412_dead_or_linear_channel(facts: Facts, *, values: int = 10_000) -> Iterator[Hit | Silence]:
    """A ReLU behind a channel never opens, or never closes.

    Why: a channel that is always zero is computed for nothing; one that is never cut is linear.

    Do: prune dead channels; linear ones need nothing.

    Hit: beta of -10 before a ReLU.

    Miss: the same before an addition; fewer than 10,000 values, which would not show it.

    Thresholds: values per channel that must have been seen.
    """
    layers = [
        bn
        for bn in facts.having("running_var", "running_mean", "eps", "live", "node")
        if bn.node.followers and all(op.role == "relu" for op in bn.node.followers)
    ]
    seen = [bn for bn in layers if bn.live.count >= values]
    if layers and not seen:
        yield Silence(f"no layer saw {values:,} values per channel")
    for bn in seen:
        low, high = bn.output_range
        if (high <= 0).any():
            most = high[high <= 0].max()
            told = f"never rise above {most:.2g}"
            yield bn.hit("the ReLU behind never opens", high <= 0, told=told, output_max=most)
        if (low > 0).any():
            least = low[low > 0].min()
            told = f"never fall below {least:.2g}"
            yield bn.hit("the ReLU behind never closes", low > 0, told=told, output_min=least)
