"""BN1xx: what is wrong in the stored values of a layer; a file is enough to see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bninspect.rules._rule import rule
from bninspect.rules.facts import Hit, Silence, share

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bninspect.rules.facts import Facts, LayerFacts

_HALF = ("float16", "bfloat16")
_FOLLOW = ("BN401", "BN402", "BN403", "BN404", "BN411")  # what data show where no output can be computed


@rule("error", explains=_FOLLOW)
def bn101_non_finite_state(facts: Facts) -> Iterator[Hit]:
    """Stored values are NaN or infinite.

    Why: evaluation gives NaN from this layer on. One batch with a NaN or an infinity is enough: a gradient scaler skips
    its step, but the running averages have taken it in and never lose it.

    Do: reset the statistics of these layers and recalibrate them on data; keep the inputs of BatchNorm in float32, and
    skip a step before its forward has moved the averages.

    Hit: a forward in train mode of a batch that holds one infinity.

    Miss: a huge but finite running_var of a network that is fed raw pixels.
    """
    for bn in facts.having():
        if bn.nonfinite.any():
            yield bn.hit("stored values are NaN or infinite", bn.nonfinite > 0, nonfinite_state=bn.nonfinite.sum())


@rule("error", "running_var", explains=_FOLLOW, remedy="recalibrate")
def bn102_negative_running_var(facts: Facts) -> Iterator[Hit]:
    """A running variance is negative.

    Why: no data has a negative variance. Below -eps, evaluation takes the root of a negative number: NaN. It comes
    from variances computed as mean(x^2) - mean(x)^2 in float32, or from a converter.

    Do: recalibrate the statistics with a two-pass variance; as a stopgap, clamp running_var at 0.

    Hit: running_var of -1e-5 with eps 1e-5; running_mean and running_var in each other's place, which shows where the
    one is negative by more than rounding and the other nowhere.

    Miss: a running_var of exactly 0 in one channel.
    """
    for bn in facts.having("running_var"):
        if (bn.running_var < 0).any():
            text, fix = "running_var is negative", None
            if _exchanged(bn):
                text = "running_var is negative and running_mean is not: they look exchanged"
                fix = "read each as the other when the weights are loaded; where that is not it, recalibrate."
            yield bn.hit(text, bn.running_var < 0, fix=fix, running_var_min=_least(bn.running_var))


def _exchanged(bn: LayerFacts, channels: int = 8, most: float = 0.25) -> bool:
    """Whether running_mean could be a variance, where running_var cannot in more than a few channels."""
    if bn.running_mean is None or bn.num_features < channels:
        return False
    return bool((bn.running_mean > 0).all()) and share(bn.running_var < 0) > most


@rule("error", "running_var", explains=("BN401", "BN402", "BN403", "BN404"), remedy="recalibrate")
def bn103_zero_running_var(facts: Facts, *, tiny: float = 1e-12, most: float = 0.5) -> Iterator[Hit]:
    """The running variance of a whole layer is zero.

    Why: the layer multiplies by 1 / sqrt(eps), which is 316 for eps 1e-5, instead of normalising. Recalibration tools
    leave zeros in layers that did not run, or when they ran no iteration.

    Do: check that these layers run at all, and recalibrate their statistics.

    Hit: running_mean and running_var of zeros, after an averaging pass without batches.

    Miss: single channels of variance 0, whose input is constant (BN106).

    Thresholds: tiny, float32 dust of a constant of size 1; most, the share of channels, above which it is the layer.
    """
    for bn in facts.having("running_var"):
        zero = abs(bn.running_var) < tiny
        if share(zero) > most:
            yield bn.hit("running_var is zero", zero, running_var_max=bn.running_var.max())


@rule("warning", "running_var", "eps?", "data?")
def bn106_constant_input_channel(facts: Facts, *, below: float = 0.1, alive: float = 10.0) -> Iterator[Hit | Silence]:
    """A channel's running variance is zero, or far below eps.

    Why: in training its input was constant. The layer gives beta there, or amplifies numerical dust by up to
    gamma / sqrt(eps). Published networks have such channels (two in torchvision's InceptionV3), so this alone is no
    fault; it is a warning where the channel varies in real data.

    Do: prune the channel and fold its constant into the next layer; do not fold it into the convolution before.

    Hit: the output channel of a convolution whose weights are zero, after training.

    Miss: a small but honest variance of 0.001 with eps 1e-5; a whole layer of zeros (BN103).

    Thresholds: below, in units of eps (where eps is not known, only 0 is below); alive, how often the variance of the
    data must exceed running_var; it must exceed eps as well, or it would not show in the output, and be certain by the
    measure of BN401.
    """
    without = tuple(bn.path for bn in facts.having("running_var") if bn.eps is None)
    if without:
        reason = "eps is not known: only variances of exactly 0 were looked for"
        yield Silence(reason, without if len(without) < len(facts.layers) else ())
    for bn in facts.having("running_var"):
        limit = 0.0 if bn.eps is None else below * bn.eps
        low = (bn.running_var >= 0) & ((bn.running_var < limit) | (bn.running_var == 0))
        if not low.any() or share(low) > 0.5:
            continue
        varies = low & _varies(facts, bn, alive)
        if varies.any():
            text = "channels whose input was constant in training vary in the data"
            told = f"have a running_var of at most {bn.running_var[varies].max():.2g}"
            yield bn.hit(text, varies, "warning", told=told, running_var_min=_least(bn.running_var))
        if (low & ~varies).any():
            what = "far below eps" if bn.running_var[low].any() else "is 0"
            message = f"the input of channels was constant in training (running_var {what})"
            told = f"have a running_var of at most {bn.running_var[low & ~varies].max():.2g}"
            yield bn.hit(message, low & ~varies, "info", told=told, running_var_min=_least(bn.running_var), eps=bn.eps)


def _varies(facts: Facts, bn: LayerFacts, alive: float) -> Any:
    if facts.data is None or bn.channels is None or bn.running_mean is None or bn.eps is None:
        return False
    return bn.far() & (bn.channels.var > alive * bn.running_var) & (bn.channels.var > bn.eps)


@rule("info", "weight", "running_var", "eps")
def bn107_switched_off_channel(
    facts: Facts, *, relative: float = 1e-3, absolute: float = 1e-2, constant: float = 1e-2
) -> Iterator[Hit | Silence]:
    """Gamma has switched a channel off.

    Why: the channel's output hardly varies, so what comes before it is computed for nothing. With a beta that is not
    zero it is still a constant that later layers count on.

    Do: prune the channels; where beta is not zero, fold it into the bias of the next layer first.

    Hit: gamma of 1e-8 in one channel among gammas of 1, after sparse training.

    Miss: gamma of 0 in a whole layer (zero_init_residual), or gammas that are small together; gamma of 1 on a channel
    without variance, which is its input's doing (BN106).

    Thresholds: relative, to the layer's median of |gamma| sqrt(rv / (rv + eps)), and of |gamma| to its own median;
    absolute, of the same two; constant, of |beta|.
    """
    if facts.untrained:
        yield Silence("the model is untrained")
        return
    for bn in facts.having("weight", "running_var", "eps"):
        ordered = sorted(bn.output_std)
        off = (bn.output_std < relative * ordered[len(ordered) // 2]) & (bn.output_std < absolute)
        gains = abs(bn.weight)
        off = off & (gains < relative * sorted(gains)[len(gains) // 2]) & (gains < absolute)
        kept = off & (abs(bn.bias) > constant) if bn.bias is not None else off & False
        if (off & ~kept).any():
            told = f"have an output that deviates by at most {bn.output_std[off & ~kept].max():.2g}"
            yield bn.hit("gamma has switched channels off", off & ~kept, told=told, output_std_min=bn.output_std.min())
        if kept.any():
            text = "gamma has made channels constant, and beta is not zero"
            yield bn.hit(text, kept, output_std_min=bn.output_std.min(), abs_bias_max=abs(bn.bias[kept]).max())


@rule("info", "running_var", "eps", "graph")
def bn108_predicted_dead_relu(facts: Facts, *, sigmas: float = 4.0) -> Iterator[Hit]:
    """The ReLU behind a channel is predicted never to open.

    Why: if the output is roughly normal with mean beta and the standard deviation that gamma gives it, fewer than 3
    values in 100,000 are positive. A prediction from stored values; BN412 measures it.

    Do: confirm with a batch; prune the channels, or train with a lower learning rate or less weight decay on gamma.

    Hit: beta of -8 with gamma of 1 before a ReLU.

    Miss: the same before SiLU, a leaky ReLU or an addition.

    Thresholds: sigmas, beta over standard deviation: Phi(-4) = 3e-5.
    """
    for bn in _before_relu(facts):
        if (bn.output_ratio < -sigmas).any():
            worst = bn.output_ratio[bn.output_ratio < -sigmas].min()
            told = f"lie up to {-worst:.0f} standard deviations below zero"
            text = "the ReLU behind is predicted never to open"
            yield bn.hit(text, bn.output_ratio < -sigmas, told=told, beta_sigmas=worst)


@rule("info", "running_var", "eps", "graph")
def bn109_predicted_linear_relu(facts: Facts, *, sigmas: float = 4.0) -> Iterator[Hit]:
    """The ReLU behind a channel is predicted always to be open.

    Why: a ReLU that never closes is no non-linearity: the channel is linear.

    Do: nothing, if it is few channels; it tells that the layer has more width than it uses. BN412 measures it.

    Hit: beta of 8 with gamma of 1 before a ReLU.

    Miss: the same before an addition.

    Thresholds: sigmas, as for BN108.
    """
    for bn in _before_relu(facts):
        if (bn.output_ratio > sigmas).any():
            worst = bn.output_ratio[bn.output_ratio > sigmas].max()
            told = f"lie up to {worst:.0f} standard deviations above zero"
            text = "the ReLU behind is predicted always to be open"
            yield bn.hit(text, bn.output_ratio > sigmas, told=told, beta_sigmas=worst)


def _before_relu(facts: Facts) -> Iterator[LayerFacts]:
    """Layers whose output goes into ReLUs and nowhere else."""
    for bn in facts.having("running_var", "eps", "node"):
        if bn.node.followers and all(op.role == "relu" for op in bn.node.followers):
            yield bn


@rule("error", "dtype")
def bn110_low_precision_statistics(facts: Facts) -> Iterator[Hit]:
    """Running statistics are stored in 16 bits.

    Why: an update that is smaller than half a unit in the last place is lost, so the averages stall short of their
    value: with momentum 0.001 in bfloat16 at 40 % of it. In float16 a variance above 65504 becomes infinite.

    Do: keep BatchNorm in float32 (module.float(); autocast does so), or convert for inference only.

    Hit: model.bfloat16() that goes on training.

    Miss: autocast, which leaves the layer in float32. A model in eval mode, or only just built, is only told.
    """
    for bn in facts.having("dtype"):
        if bn.dtype not in _HALF:
            continue
        if bn.dtype == "float16" and bn.running_var is not None and (bn.running_var > 65504).any():
            yield bn.hit("running_var has overflowed float16", bn.running_var > 65504, "error")
        elif bn.training and not facts.built:
            yield bn.hit("statistics are trained in 16 bits, where small updates are lost", None, "warning")
        else:
            yield bn.hit("statistics are stored in 16 bits", None, "info")


@rule("info", "running_mean", "running_var")
def bn111_cancellation_hazard(
    facts: Facts, *, float32: float = 1e3, float16: float = 45.0, bfloat16: float = 16.0
) -> Iterator[Hit]:
    """A mean is so much larger than its standard deviation that careless arithmetic loses the variance.

    Why: code that computes mean(x^2) - mean(x)^2, folds the layer, or quantises it, loses twice as many digits as
    mean / std has. torch's own BatchNorm does not.

    Do: centre the inputs; take care when folding or exporting.

    Hit: a running_mean of 5000 with a running_var of 1.

    Miss: a first layer on raw pixels, where the ratio stays below 10; a channel of no variance (BN106).

    Thresholds: float32, float16 and bfloat16, the ratio where its square times the rounding of the dtype is about 1 (in
    float32 a formula of means of squares is measured 12 % wrong at 1e3).
    """
    limits = {"float16": float16, "bfloat16": bfloat16}
    for bn in facts.having("running_mean", "running_var"):
        large = bn.offset > limits.get(bn.dtype or "", float32)
        if bn.eps is not None:
            large = large & (bn.running_var > 0.1 * bn.eps)
        if large.any():
            text = "the mean is so much larger than the standard deviation that careless arithmetic loses the variance"
            worst = bn.offset[large].max()
            yield bn.hit(text, large, told=f"lie at up to {worst:,.0f} standard deviations", mean_over_std=worst)


@rule("warning", "num_batches_tracked")
def bn112_update_count_mismatch(facts: Facts) -> Iterator[Hit]:
    """Layers of one model were updated a different number of times.

    Why: exactly twice as often means that each step updates a layer twice: activation checkpointing runs the forward
    again, or the layer is used twice. Its momentum then acts like 1 - (1 - momentum)^2. Other differences tell of
    layers that were frozen or added later.

    Do: give layers that run twice the momentum 1 - sqrt(1 - momentum).

    Hit: num_batches_tracked of 2 in checkpointed layers and 1 elsewhere, after one step.

    Miss: zeros, which old checkpoints have everywhere; layers that are behind because they are in eval mode.
    """
    counted = [bn for bn in facts.having("num_batches_tracked") if bn.num_batches_tracked > 0 and not bn.frozen]
    counts = {bn.num_batches_tracked for bn in counted}
    single = [bn for bn in counted if 2 * bn.num_batches_tracked in counts and bn.training is not False]
    single = single or [bn for bn in counted if 2 * bn.num_batches_tracked in counts and not _any_train(counted)]
    twice = {2 * bn.num_batches_tracked for bn in single}
    for bn in counted:
        if bn.num_batches_tracked in twice:
            text = "layers were updated exactly twice as often as others"
            told = f"{bn.num_batches_tracked:,} updates, where others had {bn.num_batches_tracked // 2:,}"
            yield bn.hit(text, None, "warning", told=told, num_batches_tracked=bn.num_batches_tracked)
    if len(counts) > 1 and not twice:
        numbers = {"num_batches_tracked_min": min(counts), "num_batches_tracked_max": max(counts)}
        yield Hit(message="layers were updated a different number of times", severity="info", evidence=numbers)


def _any_train(layers: list[LayerFacts]) -> bool:
    return any(bn.training for bn in layers)


def _least(vector: Any) -> float:
    """The least value, of those that are numbers."""
    return float(vector[vector == vector].min())  # noqa: PLR0124 - NaN is not equal to itself
