"""Each figure of a record against a slow twin: the inputs of the layers themselves, seen by hooks of the test."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from loops import batch, net, step
from safetensors.numpy import load_file
from torch import nn

import bninspect


class Twin:
    """Inputs of each layer at a step, and its statistics before it, in float64."""

    def __init__(self, model):
        self.layers = {path: module for path, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
        self.inputs = {path: [] for path in self.layers}
        for path, module in self.layers.items():
            module.register_forward_pre_hook(lambda _, args, path=path: self.inputs[path].append(args[0].detach()))

    def before(self):
        for inputs in self.inputs.values():
            inputs.clear()
        self.mean = {path: one.running_mean.double().numpy().copy() for path, one in self.layers.items()}
        self.var = {path: one.running_var.double().numpy().copy() for path, one in self.layers.items()}

    def batch(self, path):
        """Mean, unbiased variance, d and r of the last input."""
        (x,) = self.inputs[path]
        x = x.double().transpose(0, 1).flatten(1).numpy()
        mean, var = x.mean(1), x.var(1, ddof=1)
        scale, eps = self.var[path] + self.layers[path].eps, self.layers[path].eps
        return {
            "mean": mean,
            "var": var,
            "d": (mean - self.mean[path]) / np.sqrt(scale),
            "r": np.sqrt((var + eps) / scale),
        }


def watched(model, tmp_path, steps=6, every=3, **options):
    """Train, with the twin of each record as it was at its step."""
    twin, seen = Twin(model), []
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    path = tmp_path / "run.jsonl"
    with bninspect.watch(model, optimizer, every=every, to=path, **options):
        for number in range(1, steps + 1):
            twin.before()
            step(model, optimizer, *batch())
            if number % every == 0:
                layers = twin.layers.items()
                state = {
                    path: {k: v.detach().clone().numpy() for k, v in one.state_dict().items()} for path, one in layers
                }
                grads = {path: (one.weight.grad.norm().item(), one.bias.grad.norm().item()) for path, one in layers}
                seen.append(({path: twin.batch(path) for path in twin.layers}, state, grads))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return lines, seen


@pytest.mark.parametrize("momentum", [0.1, 0.01, None])
def test_figures_are_those_of_the_batch(momentum, tmp_path, one_thread):
    model = net()
    for layer in (model[0][1], model[1][1]):
        layer.momentum = momentum
    lines, seen = watched(model, tmp_path)
    header, records = lines[0], [line for line in lines if line["event"] == "record"]
    assert [record["step"] for record in records] == [3, 6]
    for record, (batches, state, grads) in zip(records, seen, strict=True):
        for index, layer in enumerate(header["layers"]):
            one, stored = batches[layer["path"]], state[layer["path"]]
            expected = {
                "d_median": np.median(abs(one["d"])),
                "d_max": abs(one["d"]).max(),
                "r_median": np.median(one["r"]),
                "r_min": one["r"].min(),
                "r_max": one["r"].max(),
                "running_mean_min": stored["running_mean"].min(),
                "running_mean_max": stored["running_mean"].max(),
                "running_var_min": stored["running_var"].min(),
                "running_var_max": stored["running_var"].max(),
                "weight_min": abs(stored["weight"]).min(),
                "weight_rms": np.sqrt((stored["weight"].astype(float) ** 2).mean()),
                "weight_grad": grads[layer["path"]][0],
                "bias_grad": grads[layer["path"]][1],
                "updates": 3,
                "nonfinite_state": 0,
                "training": True,
            }
            for name, value in expected.items():
                tolerance = 1e-3 if name[:2] in ("d_", "r_") else 1e-6  # of float32 averages, and of what is copied
                assert record["layers"][name][index] == pytest.approx(value, rel=tolerance, abs=1e-6), name


def test_the_batch_of_a_step_is_as_exact_as_its_averages(tmp_path, one_thread):
    """At an offset of 30 deviations; the bounds are those that float32 leaves."""
    for momentum, mean_bound, var_bound in ((0.1, 1e-4, 1e-5), (0.01, 1e-3, 1e-4)):
        model = net()
        with torch.no_grad():
            model[0][0].weight.mul_(0.1)
        model[0][0].bias = nn.Parameter(torch.full((8,), 3.0))
        model[0][1].momentum = momentum
        folder = tmp_path / str(momentum)
        folder.mkdir()
        _, seen = watched(model, folder, steps=40, every=40, channels=True)
        (vectors,) = (load_file(file) for file in (folder / "run.channels").iterdir())
        twin = seen[0][0]["0.1"]
        assert (abs(vectors["0.1.mean"] - twin["mean"]) / np.sqrt(twin["var"])).max() < mean_bound
        assert (abs(vectors["0.1.var"] - twin["var"]) / twin["var"]).max() < var_bound
        np.testing.assert_array_equal(vectors["0.1.running_mean"], seen[0][1]["0.1"]["running_mean"])
        np.testing.assert_array_equal(vectors["0.1.weight"], seen[0][1]["0.1"]["weight"])


def test_speed_is_what_a_step_adds_to_the_mean(tmp_path, one_thread):
    model = net()
    layer, means, expected = model[0][1], [], []
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    with bninspect.watch(model, optimizer, every=5, to=tmp_path / "run.jsonl"):
        for _ in range(5):
            before, scale = layer.running_mean.double().clone(), layer.running_var.double() + layer.eps
            step(model, optimizer, *batch())
            means.append(((layer.running_mean.double() - before) ** 2 / scale).mean().sqrt().item())
        expected = sum(means) / 5
    record = json.loads((tmp_path / "run.jsonl").read_text().splitlines()[1])
    assert record["layers"]["speed"][0] == pytest.approx(expected, rel=1e-6)


def test_of_several_updates_the_weighted_mean(tmp_path, one_thread):
    """Two batches in one step: the second weighs 1, the first 1 - momentum."""
    model = nn.Sequential(nn.BatchNorm1d(3))
    with bninspect.watch(model, every=1, to=tmp_path / "run.jsonl", accumulation=2, channels=True) as watch:
        first, second = torch.randn(16, 3) + 1, torch.randn(16, 3) - 1
        model(first), model(second)
        watch.step(loss=torch.tensor(0.5), rate=0.1)
    (vectors,) = (load_file(file) for file in (tmp_path / "run.channels").iterdir())
    expected = (0.9 * first.double().mean(0) + second.double().mean(0)) / 1.9
    np.testing.assert_allclose(vectors["0.mean"], expected, rtol=1e-5)
    record = json.loads((tmp_path / "run.jsonl").read_text().splitlines()[1])
    assert record["scalars"] == {"loss": 0.5, "rate": 0.1}
    assert record["layers"]["updates"] == [2]


def test_a_step_without_an_update_has_no_batch(tmp_path):
    model = net()
    with bninspect.watch(model, every=1, to=tmp_path / "run.jsonl") as watch:
        watch.step(loss=float("nan"))
    record = json.loads((tmp_path / "run.jsonl").read_text().splitlines()[1])
    assert record["layers"]["d_max"] == [None, None]
    assert record["layers"]["updates"] == [0, 0]
    assert record["scalars"] == {"loss": None}


def test_averages_that_are_put_back_are_no_step_of_the_data(tmp_path):
    """A checkpoint that is loaded within the block: no number of a step is taken from the jump."""
    model = net()
    begun = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    with bninspect.watch(model, optimizer, every=1, to=tmp_path / "run.jsonl") as watch:
        for _ in range(5):
            step(model, optimizer, *batch())
        model.load_state_dict(begun)
        step(model, optimizer, *batch())
    assert watch.alarms == ()
    record = json.loads((tmp_path / "run.jsonl").read_text().splitlines()[6])
    assert record["layers"]["updates"] == [0, 0]
