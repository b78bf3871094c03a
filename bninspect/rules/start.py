"""BN1xx: statistics and layers that are still as they began, or hardly moved."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

from bninspect.rules._rule import rule
from bninspect.rules.facts import Hit, Silence

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bninspect.report import Severity
    from bninspect.rules.facts import Facts, LayerFacts


_SPOILS = ("BN401", "BN402", "BN403", "BN404")  # what data show of statistics that are wrong in themselves


@rule("error", "running_mean", "running_var", "graph?", explains=_SPOILS, remedy="recalibrate")
def bn104_statistics_never_updated(facts: Facts) -> Iterator[Hit]:
    """Weights were trained, but the statistics are those of a new layer.

    Why: running_mean is exactly 0 and running_var exactly 1, so evaluation does not normalise at all, while gamma and
    beta were learned with normalised data. It happens to averaged copies and teachers that average parameters only.

    Do: copy the buffers along with the parameters, or recalibrate the statistics.

    Hit: an averaged copy, made before training, into which parameters() alone were averaged; momentum 0, which counts
    batches and moves nothing.

    Miss: a new model (BN105); a checkpoint without num_batches_tracked whose statistics were trained;
    FrozenBatchNorm2d, which may hold everything in weight and bias. Only a warning where all layers agree and are in
    eval mode, as where statistics were fixed at 0 and 1 on purpose; info for a layer that does not run in evaluation.
    """
    layers = [bn for bn in facts.having("running_mean", "running_var") if not bn.frozen]
    meant = all(bn.statistics_at_start and (bn.training is False or bn.num_batches_tracked is None) for bn in layers)
    severity: Severity = "warning" if meant else "error"
    for bn in layers:
        unused = facts.graph is not None and bn.path in facts.graph.never_called
        if bn.statistics_at_start and bn.affine_learned:
            text = "weights were trained, but the running statistics never moved from 0 and 1"
            yield bn.hit(text, None, "info" if unused else severity)
        elif bn.statistics_at_start and bn.num_batches_tracked:
            text = "batches were counted, but the running statistics never moved from 0 and 1"
            numbers = {"num_batches_tracked": bn.num_batches_tracked}
            yield bn.hit(text, None, "info" if unused else severity, **numbers)


@rule("info")
def bn105_untrained_model(facts: Facts) -> Iterator[Hit]:
    """Every BatchNorm layer is as it was initialised.

    Why: this is a new model, and nothing that data would show of it means anything: rules on data are silent.

    Do: load weights, then check again.

    Hit: torchvision's resnet18(weights=None), also with zero_init_residual, where some gamma are 0.

    Miss: a model with one trained layer.
    """
    if facts.untrained:
        text = "the model is untrained"
        if all(bn.weight is None and bn.bias is None for bn in facts.layers):
            text = "the model is untrained, or its statistics never moved: there is no gamma or beta that would tell"
        yield Hit(message=text, evidence={"num_layers": len(facts.layers)})


@rule("warning", "num_batches_tracked", "momentum", "running_var", "data?", explains=_SPOILS, remedy="recalibrate")
def bn113_statistics_not_converged(facts: Facts, *, left: float = 0.01) -> Iterator[Hit | Silence]:
    """The running averages have not forgotten their initial values yet.

    Why: after n updates they still hold (1 - momentum)^n of the initial 0 and 1, so evaluation is worse than training
    would suggest.

    Do: train longer, or recalibrate the statistics.

    Hit: ten steps with momentum 0.1, which leaves 35 %.

    Miss: zero updates (a new layer, or an old checkpoint); statistics that were recalibrated, which shows where a
    variance is smaller than what an average would have left of the initial 1; statistics that fit the data. Updates of
    a pretraining count as well.

    Thresholds: left, the share of the initial value: 44 updates with momentum 0.1, 4603 with 0.001.
    """
    young = []
    for bn in facts.having("num_batches_tracked", "momentum", "running_var"):
        n, momentum = bn.num_batches_tracked, bn.momentum
        if n > 0 and 0 < momentum < 1 and n * log(1 - momentum) > log(left) and not bn.frozen:
            young.append((bn, (1 - momentum) ** n))
    if any((bn.running_var < rest * (1 - 1e-4)).any() for bn, rest in young):
        yield Silence("the statistics were recalibrated: they hold less of their initial values than averages would")
        return
    fitting = {bn.path for bn in facts.comparable} - {bn.path for bn in facts.misfits} if facts.data is not None else ()
    for bn, rest in young:
        if bn.path in fitting:
            continue
        text = "the running averages still hold more than 1 % of their initial values"
        told = f"{rest:.0%} of them is left after {bn.num_batches_tracked:,} updates"
        yield bn.hit(
            text, told=told, num_batches_tracked=bn.num_batches_tracked, momentum=bn.momentum, initial_share=rest
        )
    uncounted = [bn.path for bn in facts.having("num_batches_tracked", "momentum", "running_mean") if _is_uncounted(bn)]
    if uncounted:
        yield Silence(
            "the statistics moved but num_batches_tracked is 0, and does not tell how often", tuple(uncounted)
        )


def _is_uncounted(bn: LayerFacts) -> bool:
    return bn.num_batches_tracked == 0 and bn.running_var is not None and not (bn.statistics_at_start or bn.frozen)


@rule("warning", "running_mean", "running_var", "graph?", explains=_SPOILS, remedy="recalibrate")
def bn114_layer_as_new(facts: Facts) -> Iterator[Hit]:
    """A layer is exactly as a new one, among others that were trained.

    Why: its values never arrived: load_state_dict(strict=False) passes over a key that was renamed, and a BatchNorm of
    another domain or branch may never have run. Evaluation does not normalise there at all.

    Do: find the layer's values in the checkpoint, under another name, and load them. Where they are lost, train the
    layer, or recalibrate its statistics and compare the accuracy: what gamma and beta had learned does not come back.

    Hit: a trained network, one of whose layers was replaced by BatchNorm2d(8).

    Miss: a new model (BN105); a layer whose gamma or beta was learned (BN104). Info for a new head, which is the last
    module of the model and new in all its layers; for gamma 0 everywhere, whose output is beta whatever the statistics
    (zero_init_residual); for a layer that does not run in evaluation.
    """
    layers = [bn for bn in facts.having("running_mean", "running_var") if not bn.frozen]
    if all(bn.statistics_at_start for bn in layers):
        return
    head = _new_head(layers)
    for bn in layers:
        if not bn.as_new:
            continue
        if facts.graph is not None and bn.path in facts.graph.never_called:
            yield bn.hit("the layer is exactly as a new one, and does not run in evaluation", None, "info")
        elif bn.weight is not None and not bn.weight.any():
            yield bn.hit("the layer is exactly as a new one, and its gamma of 0 lets nothing through", None, "info")
        elif bn.path in head:
            yield bn.hit("the layer is exactly as a new one, in a head that is new", None, "info")
        else:
            yield bn.hit("the layer is exactly as a new one, among others that were trained")


def _new_head(layers: Sequence[LayerFacts]) -> frozenset[str]:
    """Paths in the model's last module, if all its layers are as new, and it is none of a row of like ones."""
    paths = [bn.path.split(".") for bn in layers]
    shared = 0
    while all(len(path) > shared + 2 for path in paths) and len({path[shared] for path in paths}) == 1:
        shared += 1
    last = paths[-1][shared]
    inside = [bn for bn, path in zip(layers, paths, strict=True) if path[shared] == last]
    row = last.rstrip("0123456789")
    like = any(path[shared] != last and path[shared].rstrip("0123456789") == row != "" for path in paths)
    nested = all(len(path) > shared + 1 for path in paths if path[shared] == last)
    together = all(path[shared] == last for path in paths[-len(inside) :])
    found = nested and together and not like and all(bn.as_new for bn in inside)
    return frozenset(bn.path for bn in inside) if found else frozenset()


@rule("warning", "num_batches_tracked", "running_mean", "running_var", "eps")
def bn115_count_reset(facts: Facts) -> Iterator[Hit]:
    """The statistics are a cumulative average whose count is 0, so that the next batch replaces them all.

    Why: with momentum None each batch weighs one over the count. Statistics that were loaded without their count
    (num_batches_tracked) are lost in the first step of training, and become those of one batch.

    Do: load num_batches_tracked with them, or set it to the number of batches that were averaged.

    Hit: BatchNorm2d(8, momentum=None) in train mode, its state dict loaded without num_batches_tracked.

    Miss: the same with its count; momentum 0.1, which does not use the count; a new layer. Only told in eval mode,
    where nothing is replaced until the model trains again.
    """
    for bn in facts.having("num_batches_tracked", "running_mean", "running_var", "eps"):
        cumulative = bn.momentum is None and bn.track_running_stats is not False and not bn.frozen
        if cumulative and bn.num_batches_tracked == 0 and not bn.statistics_at_start:
            if bn.training:
                yield bn.hit("the next batch replaces the statistics: momentum is None and their count is 0")
            else:
                text = "training would replace the statistics by those of its first batch: their count is 0"
                yield bn.hit(text, None, "info")


@rule("warning", explains=_SPOILS)
def bn116_missing_values(facts: Facts) -> Iterator[Hit]:
    """A checkpoint did not have all values of the model.

    Why: with --no-strict what is missing keeps the values that the model was built with: a layer that was never trained
    stands among trained ones.

    Do: compare the names of the keys: a prefix or a renamed module is the usual reason; then load without --no-strict.

    Hit: check MODEL --checkpoint FILE --no-strict, where FILE calls bn2 norm2.

    Miss: a checkpoint that has every key. Values of modules without BatchNorm, such as a new classifier, are told as
    info.
    """
    own = [(bn, [key for key in facts.missing_keys if key.rpartition(".")[0] == bn.path]) for bn in facts.layers]
    for bn, keys in own:
        if keys:
            yield bn.hit("values of the layer are not in the checkpoint", num_missing=len(keys))
    known = {key for _, keys in own for key in keys}
    modules = {bn.path.partition(".")[0] for bn in facts.layers if "." in bn.path}
    others = [key for key in facts.missing_keys if key not in known]
    inside = [key for key in others if key.partition(".")[0] in modules]
    told = ", ".join(others[:3]) + (f" and {len(others) - 3:,} more" if len(others) > 3 else "")
    if others:
        text = "values of other layers are not in the checkpoint"
        severity: Severity = "warning" if inside else "info"
        yield Hit(message=text, told=told, severity=severity, evidence={"num_missing": len(others)})
