"""BN3xx: where layers stand in the graph, and how often they are called."""

from __future__ import annotations

from math import isinf
from typing import TYPE_CHECKING

from bninspect.layers import FOLDABLE
from bninspect.rules._rule import rule
from bninspect.rules.facts import Hit, Silence, share

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bninspect.report import Severity
    from bninspect.rules.facts import Facts, LayerFacts

_FEATURES_LAST = ("linear", "layer_norm", "attention", "rnn", "embedding")


@rule("info", "graph")
def bn301_redundant_bias(facts: Facts) -> Iterator[Hit]:
    """The layer before BatchNorm has a bias.

    Why: normalising by batch statistics subtracts the mean, and the bias with it: its gradient is zero but for
    rounding. It costs memory, and does no harm.

    Do: build the layer with bias=False.

    Hit: Conv2d(3, 8, 3) into BatchNorm2d(8); all of torchvision's vgg*_bn.

    Miss: a bias that also reaches another layer, as maxvit_t's stem does; a BatchNorm that is frozen in eval mode
    while the model trains, where the bias does count; one that normalises positions (BN307), where the bias of a linear
    layer is by feature.
    """
    trains = any(bn.training for bn in facts.layers)
    found = [
        bn
        for bn in facts.having("node")
        if bn.node.producer and bn.node.producer.role in FOLDABLE and bn.node.producer.bias
        if bn.node.producer.consumers == 1 and bn.node.calls == 1 and not bn.node.other_axis
        if not bn.frozen and (bn.training or not trains)
    ]
    total = sum(bn.node.producer.bias for bn in found)
    for bn in found:
        text = f"{total} bias parameters stand before BatchNorm, which cancels them in training"
        yield bn.hit(text, bias_parameters=bn.node.producer.bias)


@rule("warning", "graph", "data?", explains=("BN401", "BN404"), remedy="recalibrate")
def bn302_dropout_before_batchnorm(facts: Facts, *, inflated: float = 1.25, layers: int = 3) -> Iterator[Hit]:
    """A BatchNorm layer is fed through dropout.

    Why: dropout raises the variance in training and not in evaluation, so running_var is too large for evaluation. A
    linear layer in between does not average it out.

    Do: move the dropout behind the last BatchNorm, or recalibrate the statistics with dropout off.

    Hit: Dropout(0.5), Conv2d, BatchNorm2d; deeplabv3 has it in its head. A warning where real data show that
    running_var is too large there, and not before.

    Miss: dropout behind the last BatchNorm; a BatchNorm in between; stochastic depth, which drops whole branches.

    Thresholds: inflated, running_var over the variance of the data (median), relative to the layers without dropout
    that were called before; layers, how many of them are looked at. (By itself the ratio is above 1.25 in 188 of 2,639
    layers of healthy networks on 48 images, all without dropout: what is too low before stays too low behind.)
    """
    before = [1.0]
    for bn in facts.having("node"):
        ratio = bn.variance_ratio if _measured(facts, bn) else None
        if not bn.node.dropout:
            before = [*before, ratio or 1.0][-layers:]
        elif ratio is not None and ratio > inflated * max(1.0, *before) and share(bn.far(r=1.0)) > 0.5:
            text = "dropout before BatchNorm has made running_var too large for evaluation"
            told = f"running_var is {ratio:.2g} times the variance of the data"
            yield bn.hit(text, None, "warning", told=told, running_var_over_var=ratio)
        else:
            yield bn.hit("dropout before BatchNorm", None, "info", running_var_over_var=ratio)


def _measured(facts: Facts, bn: LayerFacts) -> bool:
    return facts.data is not None and bn.channels is not None and bn.running_var is not None and bn.eps is not None


@rule("info", "graph")
def bn303_consecutive_batchnorm(facts: Facts) -> Iterator[Hit]:
    """A BatchNorm layer feeds a BatchNorm layer directly.

    Why: the second normalises what is normal already; its gamma and beta could be the first one's.

    Do: drop one of them.

    Hit: Sequential(BatchNorm1d(8), BatchNorm1d(8)).

    Miss: an addition, a concatenation or a ReLU in between.
    """
    for bn in facts.having("node"):
        if bn.node.producer and bn.node.producer.role == "batchnorm":
            yield bn.hit("the input comes straight from another BatchNorm")


@rule("warning", "graph", "data?")
def bn304_shared_batchnorm(facts: Facts, *, shift: float = 0.5, ratio: float = 2.0) -> Iterator[Hit]:
    """A BatchNorm layer is called more than once in a forward.

    Why: one pair of running statistics serves several distributions. Where they differ, training normalises each by its
    own and evaluation all by the average (by the last, with momentum 1).

    Do: give each use statistics of its own; weight and bias may stay shared.

    Hit: one layer on two branches of different scale.

    Miss: a layer that has two names but is called once. Calls whose statistics agree are told as info.

    Thresholds: shift of the mean between calls in running standard deviations; ratio of their variances; medians.
    """
    for bn in facts.having("node"):
        if bn.node.calls < 2:
            continue
        seen = facts.data.calls.get(bn.path) if facts.data else None
        if seen and (seen[0] > shift or seen[1] > ratio):
            text = "the layer is used for inputs of different statistics"
            told = f"means differ by {seen[0]:.2g} running standard deviations, variances {seen[1]:.2g} times"
            numbers = {"calls": bn.node.calls, "mean_shift": seen[0], "var_ratio": seen[1]}
            yield bn.hit(text, None, "warning", told=told, **numbers)
        else:
            yield bn.hit("the layer is called more than once in a forward", None, "info", calls=bn.node.calls)


@rule("info", "graph")
def bn305_never_called(facts: Facts) -> Iterator[Hit]:
    """A BatchNorm layer does not run in evaluation.

    Why: auxiliary heads that only train need nothing. Else the layer is left over, and recalibration tools may set its
    statistics to zero.

    Do: nothing for auxiliary heads; remove what is left over.

    Hit: the auxiliary heads of torchvision's googlenet and inception_v3.

    Miss: a layer that runs for some inputs only, where the input takes it there.
    """
    for bn in facts.layers:
        if bn.path in facts.graph.never_called:
            yield bn.hit("the layer does not run in a forward in eval mode")


@rule("info", "graph")
def bn306_batchnorm_as_output(facts: Facts) -> Iterator[Hit]:
    """The model's output comes straight from a BatchNorm layer.

    Why: in training every output has mean beta over the batch, whatever the batch. Some report that it helps, others
    that it forces predictions towards their mean.

    Do: see that it is meant; embeddings often end so, classifiers rarely.

    Hit: Linear(8, 2), BatchNorm1d(2), Softmax.

    Miss: a linear layer or a ReLU behind the BatchNorm.
    """
    for bn in facts.having("node"):
        if bn.node.is_output:
            yield bn.hit("the output of the model comes straight from BatchNorm")


@rule("warning", "graph")
def bn307_wrong_axis(facts: Facts) -> Iterator[Hit]:
    """BatchNorm1d normalises time steps instead of features.

    Why: BatchNorm1d takes [N, C, L], but sequence layers give [N, L, C]. The layer then has one mean for each
    position; with num_features set to the length this raises no error.

    Do: transpose(1, 2) before the layer and after it.

    Hit: an Embedding or an LSTM (batch_first) of [8, 36, 64] into BatchNorm1d(36), also through a ReLU or dropout.

    Miss: the same after a transpose; a linear layer that mixes positions between two transposes. Where length and width
    are equal it cannot be told, and is info. Statistics per time step on purpose look the same.
    """
    for bn in facts.having("node"):
        node = bn.node
        if len(node.input_shape) != 3 or not node.origin or node.origin.role not in _FEATURES_LAST:
            continue
        if node.transposed and node.origin.role in ("linear", "layer_norm"):
            continue
        length, width = node.input_shape[1:]
        severity: Severity = "warning" if length != width else "info"
        yield bn.hit("positions are normalised instead of features", None, severity, num_features=length, width=width)


@rule("info", "graph", "data?")
def bn308_not_foldable(facts: Facts, *, change: float = 0.01, spacings: float = 32.0) -> Iterator[Hit | Silence]:
    """A BatchNorm layer cannot be folded into the layer before it without loss.

    Why: inference tools fold BatchNorm into the convolution before it. It is wrong, or refused, where there is none,
    where its output is also used elsewhere, and for grouped transposed convolutions. It loses digits where a channel's
    mean is large beside its standard deviation, and the gain makes up for a tiny running_var.

    Do: nothing, unless inference speed is wanted; then leave these layers out of the folding.

    Hit: densenet121, where 62 layers follow a concatenation; on a batch, filters that have shrunk to 1e-6 behind a bias
    of 0.5, with a gain that makes up for them.

    Miss: resnet50, where every layer follows a convolution of its own.

    Thresholds: change, the largest difference that folding makes to the output on one image, over the output's root
    mean square; spacings, the same in spacings of the layer's precision (both must be passed). Ten healthy networks of
    torchvision differ by at most 1.2e-5 in float32, and by 15 spacings in float16 and 8 in bfloat16 (three networks).
    """
    if not facts.having("node"):
        yield Silence("no layer was called")
        return
    foldable = [bn for bn in facts.having("node") if bn.node.foldable]
    for bn in facts.having("node"):
        if not bn.node.foldable:
            yield _unfoldable(bn)
    if facts.data is None:
        if foldable:
            yield Silence(f"what folding changes was not measured: {facts.why.get('data', 'there is no data')}")
        return
    for bn in foldable:
        found, spacing = facts.data.folded.get(bn.path, (0.0, 0.0))
        if isinf(found):
            yield bn.hit("folding leaves the range of the layer's numbers")
        elif found > max(change, spacings * spacing):
            yield bn.hit("folding changes the output by more than rounding", relative_change=found)
    rest = [bn for bn in foldable if bn.path not in facts.data.folded]
    inside = tuple(bn.path for bn in rest if bn.node.producer.path and bn.path.startswith(f"{bn.node.producer.path}."))
    unmeasured = tuple(bn.path for bn in rest if bn.path not in inside)
    if inside:
        yield Silence("what folding changes was not measured: the layer before holds its BatchNorm", inside)
    if unmeasured:
        reason = "no finite output, no running statistics, or a weight that is no plain parameter"
        yield Silence(f"what folding changes could not be measured: {reason}", unmeasured)


def _unfoldable(bn: LayerFacts) -> Hit:
    producer = bn.node.producer
    if producer is None or producer.role not in FOLDABLE:
        return bn.hit("cannot be folded: the input comes from no convolution or linear layer")
    if bn.node.other_axis:
        return bn.hit("cannot be folded: the features of the linear layer before are not its channels")
    if producer.role == "conv_transpose" and producer.groups > 1 and producer.consumers == 1 and bn.node.calls == 1:
        return bn.hit("cannot be folded by torch: transposed convolution with groups", groups=producer.groups)
    return bn.hit("cannot be folded: the layer before has other readers", consumers=producer.consumers)
