"""Everything the rules may want to know of a live model: gathered in as few forwards as that takes."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import torch
from torch import nn

import bninspect
from bninspect.errors import BNInspectError, ForwardError
from bninspect.inspection.check import between_batches as _groups
from bninspect.inspection.check import candidates as _changes
from bninspect.inspection.check import fold as _fold
from bninspect.inspection.check import hooks as _watch
from bninspect.inspection.check import sample as _sample
from bninspect.inspection.check.as_trained import Asked, AsTrained, as_trained
from bninspect.inspection.check.batch_mode import Sample
from bninspect.inspection.check.other_eps import other_eps
from bninspect.observe import graph, meta
from bninspect.observe.baked import Baked, baked
from bninspect.observe.layers import batchnorms, describe, scripted, unjudged
from bninspect.observe.process import home, resolve_device, tool_of, undisturbed
from bninspect.observe.regroup import UncutError, length_of, split
from bninspect.observe.runner import Runner
from bninspect.observe.shadow import has_one_mode, remarks, set_mode, shadow
from bninspect.observe.steps import leaves, moved
from bninspect.observe.unwrap import unwrap
from bninspect.rules.data_facts import Candidate, Data
from bninspect.rules.facts import Facts, LayerFacts, is_untrained, median, share

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bninspect.layers import BatchNormLayer, Graph
    from bninspect.observe.forward import Forward
    from bninspect.report import FunctionalCall, Shape, Source, StatsLayer, StatsReport, Tool, Vector

_TRIED = 32  # images that changes of the input are tried on
_SCREENED = 8  # images that changes are tried on before, to leave out those that are hopeless
_LOOKED_AT = 2  # images by which it is seen where an input goes
_GROSS = 0.5  # distance of the first layer from which a sample is not to blame, however different its images are


class Request(NamedTuple):
    """What to look at, and how far: codes of the ``wanted`` rules and what they need."""

    model: Any
    batch: Any
    sizes: Sequence[Shape]
    batch_size: int | None
    device: str | torch.device | None
    by: Forward | None
    source: Source
    wanted: frozenset[str]
    needs: frozenset[str]


class Evidence(NamedTuple):
    """What was found out."""

    facts: Facts
    tool: Tool
    num_images: int | None
    batch_shape: Any
    notes: tuple[str, ...]


def gather(request: Request) -> Evidence:
    """Look at a model, at its graph and at what data do in it; the model is left as it was found."""
    return _Gathering(request).all()


class _Gathering:
    def __init__(self, request: Request) -> None:
        self.request = request
        self.model = unwrap(request.model)
        self.name = request.source.model or type(self.model).__name__
        self.place = resolve_device(request.device, self.model)
        said = baked(self.model)
        self.exported = bool(said)
        self.layers = {path: _described(path, module, said) for path, module in batchnorms(self.model).items()}
        self.runner = Runner(self.model, self.place, self.name, request.by)
        with undisturbed(self.place):  # a loader that is begun draws a random number
            self.pieces = _sample.Pieces(request.batch, request.source.batch_kind, opaque=request.by is not None)
        self.first, self.user_made = self.pieces.first, self.pieces.user_made
        self.notes: list[str] = list(unjudged(self.model))
        self.why: dict[str, str] = {}

    def all(self) -> Evidence:
        with undisturbed(self.place):
            seen = self._graph() if "graph" in self.request.needs else None
            data, report = self._data(seen) if "data" in self.request.needs else (None, None)
            if "BN405" in self.request.wanted:
                self.pieces.count(_images_of(seen))
        live = {layer.path: layer for layer in report.layers} if report else {}
        facts = Facts(
            _ordered(self.layers, live, seen, data.square_error if data else {}),
            graph=seen,
            data=data,
            batch_size=self.request.batch_size or self.pieces.usual,
            batches=tuple(self.pieces.sizes),
            averaged=self.request.source.averaged
            or any(name.rpartition(".")[2] == "n_averaged" for name, _ in self.model.named_buffers()),
            adapting=_adapting(self.model),
            exported=self.exported,
            built=self.request.source.model_kind not in (None, "pickled module") and not self._has_chosen_modes(),
            missing_keys=self.request.source.missing_keys,
            why=self.why,
        )
        dtype = next((value.dtype for value in self.model.parameters()), None)
        tool = report.tool if report else tool_of(self.place, dtype, "eval")
        shape = tuple(self.first[0].shape) if self.first and self.request.by is None else None
        return Evidence(facts, tool, report.num_images if report else None, shape, tuple(dict.fromkeys(self.notes)))

    def _has_chosen_modes(self) -> bool:
        """Whether layers are in different modes, which nobody builds: somebody called train() or eval() on a part."""
        modes = {layer.training for layer in self.layers.values() if not layer.kind.startswith("Frozen")}
        return {True, False} <= modes

    def _graph(self) -> Graph | None:
        """The graph, seen on meta or, where values are needed, for real with two images."""
        if not self.layers:
            return None
        sizes = self.request.sizes or self._guessed()
        if self.first is None and not sizes:
            self.why["graph"] = "the shape of an input is not known: give input_size (--input C,H,W)"
            return None
        try:
            found, calls = self._watched(sizes)
        except BNInspectError as error:
            if self.first is not None or self.request.sizes:
                raise
            self.why["graph"] = f"an input was made up, and did not fit: give input_size (--input C,H,W); {error}"
            return None
        if self.first is None and not self.request.sizes:
            self.notes.append(f"the graph was seen with an input of {list(sizes[0])} that was made up")
        for call in calls:
            self.notes.append(
                f"{call.calls} calls of batch_norm in {call.path or self.name} belong to no layer: unseen"
            )
        return found

    def _watched(self, sizes: Sequence[Shape]) -> tuple[Graph, tuple[FunctionalCall, ...]]:
        if self.request.by is not None and self.first is not None:
            return self._seen_in_a_step(self.first)
        try:
            return self._seen_on(torch.device("meta"), sizes)
        except Exception as error:
            if not meta.needs_values(error):
                raise
        return self._seen_on(home(self.model), sizes)

    def _seen_in_a_step(self, step: tuple[Any, ...]) -> tuple[Graph, tuple[FunctionalCall, ...]]:
        """With real values, which a function of the user's may need; of two images, if it takes so few."""
        images = length_of(step)
        if images is not None and images > 2:
            with contextlib.suppress(ForwardError, UncutError):
                found = self._seen_in_a_step(next(split(step, 2)))
                if _images_of(found[0]) in (2, None):
                    return found
        twin = self.runner.twin()
        self.notes += [*scripted(twin), *remarks(twin)]
        inputs = tuple(moved(value, self.place) for value in step)
        return graph.watch(twin, inputs, what=self.name, by=self.request.by)

    def _seen_on(self, device: torch.device, sizes: Sequence[Shape]) -> tuple[Graph, tuple[FunctionalCall, ...]]:
        twin = shadow(self.model, device=device)
        set_mode(twin, "eval")
        self.notes += [*scripted(twin), *remarks(twin)]
        if self.first is None:
            return graph.watch(twin, graph.example(sizes, twin, device), what=self.name)
        images = len(self.first[0]) if has_one_mode(twin) else 2  # an exported program may take no other number
        inputs = tuple(value[:images].to(device) for value in self.first)
        if len(inputs[0]) == 1:
            inputs = tuple(torch.cat([value, value]) for value in inputs)
        return graph.watch(twin, inputs, what=self.name)

    def _guessed(self) -> list[Shape]:
        shape = graph.guess(self.model) if self.first is None else None
        return [shape] if shape else []

    def _data(self, seen: Graph | None) -> tuple[Data | None, StatsReport | None]:
        """What real data show; ``None`` where there are none, or the model has learned nothing."""
        reason = self._why_no_data()
        if reason:
            self.why["data"] = reason
            return None, None
        repeated = {path for path, node in seen.nodes.items() if node.calls > 1} if seen else set()
        twin = shadow(self.model, stepped=self.request.by is not None)
        watch = _watch.Watch(twin, self.request.by, repeated, _sample.SAMPLE)
        folding = _fold.Folding(twin, seen) if seen and "BN308" in self.request.wanted else None
        within = _groups.Within()

        def on_piece(images: int, so_far: Any) -> None:
            watch.settle()
            self.pieces.ran(images)
            if self.user_made:
                within.add(so_far())

        report = bninspect.stats(
            twin,
            self.pieces.read(),
            device=self.place,
            batch_size=self.request.batch_size if self.pieces.are_split() else None,
            forward=watch.run,
            source=self.request.source,
            on_piece=on_piece,
        )
        self.notes += remarks(twin)
        del twin
        found = self._figures(watch, within, report, seen)
        return msgspec.structs.replace(found, folded=folding.found if folding else {}), report

    def _why_no_data(self) -> str | None:
        if self.first is None:
            return "no batch was given: give batch (--batch SOURCE)"
        if self.request.source.synthetic:
            return "the batch is made up, and says nothing about real data"
        if is_untrained(tuple(self.layers.values())):
            return "the model is untrained, and data show nothing of it"
        return None

    def _figures(self, watch: _watch.Watch, within: _groups.Within, report: StatsReport, seen: Graph | None) -> Data:
        why: dict[str, str] = {}
        between = _groups.differing(watch.image_means) if self.user_made else None
        if between is None:
            why["between"] = why["within"] = (
                "two or more batches are needed, as training would make them: give an iterable of batches"
            )
        if self.exported:
            for name in ("candidates", "padding", "modes", "noise"):
                why[name] = "an exported program shows none of its layers at work, and computes in one mode"
        images, errors = self.pieces.joined(), watch.square_errors()
        layers = _ordered(self.layers, {layer.path: layer for layer in report.layers}, seen, errors)
        sample = Sample(self.runner, images)
        running = torch.cat(watch.scores)[: images.num_images] if watch.scores else None
        asked = Asked(self.request.wanted, self.request.batch_size or self.pieces.usual)
        found = AsTrained() if self.exported else as_trained(asked, sample, layers, running, why)
        return Data(
            num_images=report.num_images or 0,
            batches=within.batches if self.user_made else 1,
            square_error=errors,
            within=within.variances(),
            between=between,
            calls=watch.repeated(self.layers),
            noise=found.noise,
            noise_batches=found.noise_batches,
            modes=found.modes,
            recalibrated=found.recalibrated,
            other_eps=other_eps(sample, layers, running)
            if "BN211" in self.request.wanted and not self.exported
            else (),
            padding=watch.padding(),
            candidates=self._candidates(watch, images, layers, why),
            why=why,
        )

    def _candidates(
        self, watch: _watch.Watch, sample: _sample.Images, layers: Sequence[LayerFacts], why: dict[str, str]
    ) -> Any:
        """Changes of each input, tried where the first layer that it reaches does not fit the data."""
        if self.exported or "BN402" not in self.request.wanted:
            return None
        places = [path for path, value in leaves(sample.inputs) if _are_numbers(value)]
        if not places or watch.first is None or (self.request.by is not None and len(places) > 1):
            why["candidates"] = "the input is not one tensor of numbers: changes are tried on floats alone"
            return None
        comparable = [bn for bn in layers if bn.channels is not None and bn.channels.d is not None]
        if not any(map(_off, comparable)):
            why["candidates"] = "the first layer fits the data"
            return None
        found = [self._changes(sample, path, comparable, why) for path in places]
        tried = [one for one in found if one is not None]
        named = [
            msgspec.structs.replace(one, place=_named(path) if len(places) > 1 else "")
            for path, ones in zip(places, found, strict=True)
            for one in ones or ()
        ]
        return tuple(named) if tried else None

    def _changes(
        self, sample: _sample.Images, path: Any, layers: Sequence[LayerFacts], why: dict[str, str]
    ) -> tuple[Candidate, ...] | None:
        fed: str | None = layers[0].path
        if len(list(leaves(sample.inputs))) > 1 or layers[0].live.num_images != self.pieces.images:
            fed = _changes.Changes(self.runner, _first(sample, _LOOKED_AT), path).fed()
        behind = [index for index, bn in enumerate(layers) if bn.path == fed]
        first = layers[behind[0]] if behind else None
        if first is None or not _off(first):
            why["candidates"] = "the first layer fits the data"
            return None
        if first.statistics_at_start or first.broken:
            why["candidates"] = "the first layer's statistics are those of a new layer: no input fits them"
            return None
        few = _changes.Changes(self.runner, _first(sample, _SCREENED), path)
        hopeless = few.hopeless(first) if sample.num_images > 2 * _SCREENED else set()
        return _changes.Changes(self.runner, _first(sample, _TRIED), path).candidates(layers[behind[0] :], hopeless)


def _described(path: str, module: nn.Module, said: Mapping[str, Baked]) -> BatchNormLayer:
    """A layer; of an exported program with what its graph says of it, as such a file has it."""
    layer = describe(path, module)
    return msgspec.structs.replace(layer, **said[path]._asdict()) if path in said else layer


def _first(sample: _sample.Images, images: int) -> tuple[Any, ...]:
    """The inputs of the first images, or of all where they cannot be cut."""
    if sample.cut is None or sample.num_images <= images:
        return sample.inputs
    return sample.cut.rows(sample.inputs, torch.arange(images))


def _named(path: tuple[Any, ...]) -> str:
    """The place of an input, as a reader would say it: a name, or its number."""
    return ".".join(str(part + 1) if isinstance(part, int) else str(part) for part in path)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim() > 1


def _images_of(seen: Graph | None) -> int | None:
    """How many images the graph was seen with, as the first layer has them."""
    first = next(iter(seen.nodes.values()), None) if seen else None
    return first.input_shape[0] if first else None


def _off(first: LayerFacts) -> bool:
    """Whether the first layer does not fit, by the measure of BN401, or so little that no sample would explain it."""
    apart = median(first.distance(first.channels.mean, first.channels.var))
    return share(first.far()) > 0.1 or apart > _GROSS


def _ordered(
    layers: dict[str, BatchNormLayer],
    live: dict[str, StatsLayer],
    seen: Graph | None,
    errors: dict[str, Vector],
) -> tuple[LayerFacts, ...]:
    """Layers in call order, then those never called."""
    nodes = seen.nodes if seen else {}
    order = [*nodes, *(path for path in layers if path not in nodes)]
    return tuple(LayerFacts(layers[path], live.get(path), nodes.get(path), errors.get(path)) for path in order)


def _adapting(model: nn.Module) -> bool:
    """Whether gamma and beta of BatchNorm are all that takes gradients, as in test-time adaptation."""
    own = {id(value) for module in batchnorms(model).values() for value in module.parameters(recurse=False)}
    flags = [(id(value) in own, value.requires_grad) for value in model.parameters()]
    return all(is_own == trains for is_own, trains in flags) and len({is_own for is_own, _ in flags}) == 2
