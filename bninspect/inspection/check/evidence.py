"""Everything the rules may want to know of a live model: gathered in as few forwards as that takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import torch
from torch import nn

import bninspect
from bninspect.errors import BNInspectError
from bninspect.inspection.check import batch_mode as _mode
from bninspect.inspection.check import between_batches as _groups
from bninspect.inspection.check import candidates as _changes
from bninspect.inspection.check import fold as _fold
from bninspect.inspection.check import hooks as _watch
from bninspect.inspection.check import sample as _sample
from bninspect.observe import graph, meta
from bninspect.observe.layers import batchnorms, describe, scripted
from bninspect.observe.process import home, resolve_device, tool_of, undisturbed
from bninspect.observe.shadow import has_one_mode, remarks, set_mode, shadow
from bninspect.observe.unwrap import unwrap
from bninspect.rules.data_facts import Data
from bninspect.rules.facts import Facts, LayerFacts, is_untrained, share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bninspect.layers import BatchNormLayer, Graph
    from bninspect.report import FunctionalCall, Shape, Source, StatsLayer, StatsReport, Tool, Vector

_SMALLEST = 8  # images in a batch whose predictions are compared
_TRIED = 32  # images that changes of the input are tried on


class Request(NamedTuple):
    """What to look at, and how far: codes of the ``wanted`` rules and what they need."""

    model: Any
    batch: Any
    sizes: Sequence[Shape]
    batch_size: int | None
    device: str | torch.device | None
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
        self.layers = {path: describe(path, module) for path, module in batchnorms(self.model).items()}
        self.first, self.pieces, self.user_made = _sample.opened(request.batch, request.source.batch_kind)
        self.notes: list[str] = []
        self.why: dict[str, str] = {}

    def all(self) -> Evidence:
        with undisturbed(self.place):
            seen = self._graph() if "graph" in self.request.needs else None
            data, report = self._data(seen) if "data" in self.request.needs else (None, None)
        live = {layer.path: layer for layer in report.layers} if report else {}
        facts = Facts(
            _ordered(self.layers, live, seen, data.square_error if data else {}),
            graph=seen,
            data=data,
            batch_size=self.request.batch_size,
            averaged=any(name.rpartition(".")[2] == "n_averaged" for name, _ in self.model.named_buffers()),
            adapting=_adapting(self.model),
            built=self.request.source.model_kind is not None,
            why=self.why,
        )
        dtype = next((value.dtype for value in self.model.parameters()), None)
        tool = report.tool if report else tool_of(self.place, dtype, "eval")
        shape = tuple(self.first[0].shape) if self.first else None
        return Evidence(facts, tool, report.num_images if report else None, shape, tuple(dict.fromkeys(self.notes)))

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
        try:
            return self._seen_on(torch.device("meta"), sizes)
        except Exception as error:
            if not meta.needs_values(error):
                raise
        return self._seen_on(home(self.model), sizes)

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
        twin = shadow(self.model)
        watch = _watch.Watch(twin, repeated, _sample.SAMPLE)
        folding = _fold.Folding(twin, seen) if seen and "BN308" in self.request.wanted else None
        within = _groups.Within()
        sample: list[tuple[Any, ...]] = []

        def on_piece(images: int, so_far: Any) -> None:  # noqa: ARG001
            watch.settle()
            if self.user_made:
                within.add(so_far())

        report = bninspect.stats(
            twin,
            _sample.kept(self.pieces, sample),
            device=self.place,
            batch_size=None if self.user_made else self.request.batch_size,
            source=self.request.source,
            on_piece=on_piece,
        )
        self.notes += remarks(twin)
        del twin
        found = self._figures(watch, within, _sample.joined(sample), report)
        return msgspec.structs.replace(found, folded=folding.found if folding else {}), report

    def _why_no_data(self) -> str | None:
        if self.first is None:
            return "no batch was given: give batch (--batch SOURCE)"
        if self.request.source.synthetic:
            return "the batch is made up, and says nothing about real data"
        if is_untrained(tuple(self.layers.values())):
            return "the model is untrained, and data show nothing of it"
        return None

    def _figures(
        self, watch: _watch.Watch, within: _groups.Within, sample: tuple[Any, ...], report: StatsReport
    ) -> Data:
        why: dict[str, str] = {}
        between = _groups.differing(watch.image_means) if self.user_made else None
        if between is None:
            why["between"] = why["within"] = (
                "two or more batches are needed, as training would make them: give an iterable of batches"
            )
        modes, noise = self._batch_mode(watch, sample, why)
        return Data(
            num_images=report.num_images or 0,
            batches=within.batches if self.user_made else 1,
            square_error=watch.square_errors(),
            within=within.variances(),
            between=between,
            calls=watch.repeated(self.layers),
            noise=noise,
            modes=modes,
            padding=watch.padding(),
            candidates=self._candidates(watch, sample, report, why),
            why=why,
        )

    def _batch_mode(self, watch: _watch.Watch, sample: tuple[Any, ...], why: dict[str, str]) -> Any:
        """Run a sample with batch statistics: against the running ones, and batch against batch."""
        images, asked = len(sample[0]), self.request.batch_size
        running = torch.cat(watch.scores) if watch.scores else None
        compares = "BN404" in self.request.wanted and running is not None and len(running) == images
        if running is None:
            why["modes"] = "the output is no table of scores"
        measures = "BN406" in self.request.wanted and asked is not None and images >= 4
        if asked is None:
            why["noise"] = "the batch size of training is not known: give batch_size (--batch-size)"
        elif images < 4:
            why["noise"] = "needs four images"
        size = min(asked, images // 4) if asked and measures else images // 2
        if compares and size < _SMALLEST:
            compares = False
            why["modes"] = f"batches of {size} images are too small to compare predictions"
        if not (compares or measures) or not any(layer.running_mean is not None for layer in self.layers.values()):
            return None, None
        batches = images // max(size, 1)
        run = _mode.BatchRun(shadow(self.model, device=self.place), self.place)
        table = run.scores(sample, _mode.strided(images, batches), what=self.name)
        noise = self._noise(run, size) if measures else None
        modes = None
        if compares and running is not None and table is not None:
            modes = _mode.mode_change(running, table, run, sample, size, what=self.name)
        return modes, noise

    def _noise(self, run: _mode.BatchRun, size: int) -> dict[str, float]:
        """By path; measured at ``size``, scaled to the batch size of training."""
        scale = size / float(self.request.batch_size or size)
        return {
            path: scale * _groups.noise([mean for mean, _ in found], [var for _, var in found], layer.eps or 0.0)
            for path, found in run.found.items()
            if len(found) > 1 and (layer := self.layers[path])
        }

    def _candidates(
        self, watch: _watch.Watch, sample: tuple[Any, ...], report: StatsReport, why: dict[str, str]
    ) -> Any:
        """Changes of the input, tried where the first layer does not fit the data."""
        if not watch.image or len(sample) != 1 or watch.first is None:
            why["candidates"] = "the input is no image of three channels"
            return None
        found = next((layer for layer in report.layers if layer.path == watch.first), None)
        if found is None or not _off(self.layers[watch.first], found, watch):
            why["candidates"] = "the first layer fits the data"
            return None
        twin = shadow(self.model, device=self.place)
        x = sample[0][:_TRIED].to(self.place)
        return _changes.candidates(twin, watch.first, x, self.layers[watch.first], self.name)


def _off(layer: BatchNormLayer, found: StatsLayer, watch: _watch.Watch) -> bool:
    """Whether the first layer does not fit the data, by the measure of BN401."""
    bn = LayerFacts(layer, found, None, watch.square_errors().get(layer.path))
    return bn.channels is not None and bn.channels.d is not None and share(bn.far()) > 0.1


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
