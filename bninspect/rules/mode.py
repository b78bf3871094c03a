"""BN2xx: modes and settings that do not fit each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bninspect.rules._rule import rule
from bninspect.rules.facts import FEW, Hit, share

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bninspect.report import Severity
    from bninspect.rules.facts import Facts


@rule("error", "track_running_stats")
def bn201_tracking_disabled_after_construction(facts: Facts) -> Iterator[Hit]:
    """track_running_stats was switched off while the layer has running statistics.

    Why: training normalises by the batch and updates nothing, but evaluation still uses the old statistics: the loss of
    training is low and that of validation explodes.

    Do: to freeze statistics put the layer into eval mode; to do without them set running_mean and running_var to None.

    Hit: module.track_running_stats = False on a trained layer, as some freezing callbacks do.

    Miss: BatchNorm2d(8, track_running_stats=False), which has no statistics (BN202). An error where the user's model
    is in train mode, else a warning.
    """
    severity: Severity = "error" if any(bn.training for bn in facts.layers) and not facts.built else "warning"
    for bn in facts.having("track_running_stats", "running_mean"):
        if not bn.track_running_stats:
            yield bn.hit("track_running_stats is off, but evaluation uses left-over statistics", None, severity)


@rule("warning", "track_running_stats")
def bn202_batch_statistics_in_eval(facts: Facts) -> Iterator[Hit]:
    """A layer without running statistics normalises by the batch in evaluation, too.

    Why: the prediction for an image depends on the images beside it; a batch of one becomes instance normalisation.

    Do: switch tracking on and recalibrate, unless this is meant.

    Hit: BatchNorm2d(8, track_running_stats=False).

    Miss: test-time adaptation (TENT), where gamma and beta of BatchNorm are all that takes gradients: told as info.
    """
    severity: Severity = "info" if facts.adapting else "warning"
    for bn in facts.having("track_running_stats"):
        if bn.running_mean is None and bn.running_var is None and not bn.track_running_stats:
            yield bn.hit("evaluation normalises by the batch: there are no running statistics", None, severity)


@rule("warning", "training", "trainable", "track_running_stats", "running_mean")
def bn203_frozen_affine_live_statistics(facts: Facts) -> Iterator[Hit]:
    """Gamma and beta are frozen, but the statistics still move.

    Why: requires_grad=False does not freeze BatchNorm. In train mode each forward updates running_mean and
    running_var, so the layer that was meant to stay fixed drifts.

    Do: call eval() on these layers after every model.train(), or override train() to do so.

    Hit: requires_grad=False on every parameter of a backbone in train mode.

    Miss: the same layer in eval mode; a model that is handed over in eval mode shows nothing of its training, and one
    that was only just built, all layers in train mode, has a mode that nobody chose: told as info.
    """
    for bn in facts.having("training", "trainable", "track_running_stats", "running_mean"):
        if bn.training and bn.track_running_stats and not bn.trainable and bn.momentum != 0 and not bn.frozen:
            text = "gamma and beta are frozen, but the running statistics still move"
            if facts.built:
                text = "gamma and beta are frozen, but the running statistics would move if it were trained so"
            yield bn.hit(text, None, "info" if facts.built else "warning", momentum=bn.momentum)


@rule("info", "training")
def bn204_mixed_modes(facts: Facts) -> Iterator[Hit]:
    """Some layers are in train mode and others in eval mode.

    Why: often meant (partial BatchNorm, unfreezing step by step); where it is not, model.train() or eval() was called
    on a part.

    Do: nothing, if it is meant; else call train() or eval() on the whole model.

    Hit: model.train() followed by model.layer1.eval().

    Miss: FrozenBatchNorm2d beside others.
    """
    known = [bn for bn in facts.having("training") if not bn.frozen]
    in_train = sum(bn.training for bn in known)
    if 0 < in_train < len(known):
        numbers = {"num_train": in_train, "num_eval": len(known) - in_train}
        told = f"{in_train:,} in train mode, {len(known) - in_train:,} in eval mode"
        yield Hit(message="some layers are in train mode and others in eval mode", told=told, evidence=numbers)


@rule("warning", "momentum")
def bn205_tf_momentum(facts: Facts, *, most: float = 0.5) -> Iterator[Hit]:
    """The momentum is that of another framework.

    Why: in PyTorch momentum weighs the new batch. 0.9 or 0.99 come from TensorFlow, where it weighs the old average;
    here they make the running statistics those of the last batch or two.

    Do: set momentum to 1 minus the value: TensorFlow's 0.99 is 0.01.

    Hit: BatchNorm2d(8, momentum=0.99).

    Miss: 0.1, the default; None, which is a cumulative average.

    Thresholds: most; torchvision's largest is 0.1.
    """
    for bn in facts.having("momentum"):
        if bn.momentum == 1:
            yield bn.hit("momentum is 1: the running statistics are those of the last batch", momentum=bn.momentum)
        elif bn.momentum >= most:
            text = "momentum weighs the new batch, and looks like a decay of another framework"
            yield bn.hit(text, told=f"the newest batch weighs {bn.momentum:.0%}", momentum=bn.momentum)


@rule("warning", "momentum")
def bn206_zero_momentum(facts: Facts) -> Iterator[Hit]:
    """The momentum is zero in training.

    Why: the running statistics never move, and evaluation uses whatever they started with.

    Do: set momentum to 0.1; to freeze statistics on purpose use eval().

    Hit: BatchNorm2d(8, momentum=0.0) in train mode.

    Miss: momentum 0 in eval mode; with gamma and beta frozen as well, a way to freeze, or in a model that was only just
    built, it is told as info.
    """
    for bn in facts.having("momentum"):
        if bn.momentum == 0 and bn.training and bn.running_mean is not None and bn.track_running_stats is not False:
            severity: Severity = "info" if bn.trainable is False or facts.built else "warning"
            text = "momentum is 0 in train mode: the running statistics never move"
            if facts.built:
                text = "momentum is 0: the running statistics would never move if it were trained so"
            yield bn.hit(text, None, severity, momentum=0)


@rule("warning", "eps")
def bn207_unusual_eps(facts: Facts, *, half: float = 1e-7) -> Iterator[Hit]:
    """Eps is zero, vanishes in 16 bits, or differs between layers.

    Why: eps keeps the division finite. Layers of one network rarely differ in it on purpose; converted weights often
    bring the eps of another framework, which costs accuracy.

    Do: set eps to what the weights were trained with.

    Hit: BatchNorm2d(8, eps=0).

    Miss: FrozenBatchNorm2d with eps 0, as torchvision's detection models have. A backbone and a head that differ
    (deeplabv3_mobilenet_v3) are told as info.

    Thresholds: half, below which eps rounds to zero in float16.
    """
    layers = [bn for bn in facts.having("eps") if not bn.frozen]
    for bn in layers:
        if bn.eps == 0:
            yield bn.hit("eps is 0", None, "warning", eps=0)
        elif bn.eps < half and bn.dtype == "float16":
            yield bn.hit("eps vanishes in float16", None, "warning", eps=bn.eps)
    values = {bn.eps for bn in layers}
    if len(values) > 1:
        numbers = {"eps_min": min(values), "eps_max": max(values)}
        told = f"it is from {min(values):g} to {max(values):g}"
        yield Hit(message="eps differs between layers", severity="info", told=told, evidence=numbers)


@rule("error")
def bn208_inconsistent_shapes(facts: Facts) -> Iterator[Hit]:
    """The vectors of a layer do not fit each other, or only one of gamma and beta is there.

    Why: vectors of different lengths cannot be applied; it happens when channels are cut by hand or a checkpoint was
    put together from parts. gamma without beta is legitimate, but some tools expect both.

    Do: cut weight, bias, running_mean and running_var together, and set num_features.

    Hit: a weight of 8 entries beside a running_mean of 6.

    Miss: affine=False; negative gamma.
    """
    for bn in facts.layers:
        if len(bn.lengths) > 1:
            yield bn.hit("vectors of the layer differ in length", None, "error",
                         length_min=min(bn.lengths), length_max=max(bn.lengths))  # fmt: skip
        elif not bn.sound:
            yield bn.hit("num_features is not the length of the vectors", None, "info",
                         num_features=bn.num_features, length=max(bn.lengths))  # fmt: skip
        elif (bn.weight is None) != (bn.bias is None) and bn.trainable is not None:
            yield bn.hit("only one of weight and bias is there", None, "info")


@rule("warning", "training", "running_mean")
def bn209_exported_in_train_mode(facts: Facts) -> Iterator[Hit]:
    """A program was exported in train mode, and normalises by the batch it is given.

    Why: the mode is part of the program: what it predicts for an image depends on the images beside it, and each
    prediction may move the statistics. A program of torch.export refuses eval().

    Do: call model.eval() and export again.

    Hit: torch.export.export(model.train(), ...); torch.jit.script(model.train()).save(...).

    Miss: a program exported after model.eval(); a layer without running statistics (BN202).
    """
    for bn in facts.having("training", "running_mean"):
        if facts.exported and bn.training and not bn.frozen:
            yield bn.hit("the program was exported in train mode: it normalises by the batch it is given")


@rule("info", "data?", "training")
def bn210_train_mode(facts: Facts) -> Iterator[Hit]:
    """The model is in train mode while data are judged.

    Why: check looks at it as in evaluation. Predictions of your own would normalise by the batch and move the
    statistics, even under no_grad().

    Do: call model.eval() before predicting; nothing, if it is in training.

    Hit: bninspect.check(model, batch) straight after a training loop.

    Miss: a model in eval mode, or partly so (BN204); one that the command line has built, whose mode nobody chose.
    """
    known = [bn for bn in facts.having("training") if not bn.frozen]
    if known and facts.data is not None and not (facts.built or facts.exported) and all(bn.training for bn in known):
        text = "the model is in train mode: predictions would normalise by the batch and move the statistics"
        yield Hit(message=text, evidence={"num_train": len(known)})


@rule("warning", "eps", "running_var", "data?", explains=("BN401", "BN403", "BN404"))
def bn211_decisive_eps(
    facts: Facts, *, decides: float = 10.0, channels: float = 0.5, better: float = 4.0, apart: float = 0.05
) -> Iterator[Hit]:
    """Layers fit the data with another eps, or eps decides their scale.

    Why: a channel is divided by sqrt(running_var + eps). Where running_var is small, eps decides how large the output
    is, and weights that were trained with one eps do not work with another.

    Do: set eps to what the weights were trained with: 1e-3 in TensorFlow and Keras, 1e-5 in PyTorch and Flax.

    Hit: a network trained with eps 1e-3 on small inputs, and run with 1e-5: the second layer is given too much.

    Miss: a shift of the data, which shows at the first layer; a large running_var, beside which no eps counts. Without
    data, and where no other eps fits better, layers whose scale eps decides are told as info.

    Thresholds: decides, in units of eps: a running_var below it is scaled otherwise by 5 % and more, had eps not been
    there; channels, the share that must be below it; better, how many times the distance of the layer that is farthest
    off has to drop, and to exceed that of the first layer, as in BN402; apart, the least distance that counts: a scale
    that is off by a fifth.
    """
    tried = facts.data.other_eps if facts.data is not None and facts.data.num_images >= FEW else ()
    fitting = [one for one in tried if better * max(one.first, one.after) <= one.before and one.before > apart]
    if fitting:
        fitting.sort(key=lambda one: one.after)
        best, names = fitting[0], " or ".join(f"{one.eps:g}" for one in fitting)
        told = f"the distance of the layer farthest off drops from {best.before:.2g} to {best.after:.2g}"
        told += f", and {best.changed:.0%} of the predictions change" if best.changed else ""
        numbers = {"distance_before": best.before, "distance_after": best.after, "disagreement": best.changed}
        evidence = {name: value for name, value in numbers.items() if value is not None}
        yield Hit(message=f"the layers fit the data with another eps: {names}", told=told, evidence=evidence)
        return
    for bn in facts.having("eps", "running_var"):
        small = (bn.running_var > 0) & (bn.running_var < decides * bn.eps)
        if share(small) > channels:
            told = f"have a running_var below {decides:g} eps"
            yield bn.hit("eps decides the scale of the output", small, "info", told=told, eps=bn.eps)
