"""A forward by the user's own function is seen as the model's own is: the same graph, of the same images."""

from __future__ import annotations

from collections import UserDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bninspect.observe import graph
from bninspect.observe.shadow import set_mode, shadow
from bninspect.observe.steps import fresh, leaves, moved, parts_of, with_parts

Pair = namedtuple("Pair", ["x", "y"])


class Net(nn.Module):
    """A BatchNorm at the input, one behind a convolution whose output is given as well, and one at the output."""

    def __init__(self):
        super().__init__()
        self.first, self.conv, self.second, self.last = (
            nn.BatchNorm2d(3),
            nn.Conv2d(3, 3, 1),
            nn.BatchNorm2d(3),
            nn.BatchNorm2d(3),
        )

    def forward(self, x):
        before = self.conv(self.first(x))
        return {"scores": self.last(self.second(before).relu()), "before": before}


@pytest.mark.parametrize("forget", [False, True])
def test_the_graph_is_that_of_the_models_own_forward(forget):
    def by(model, step):
        output = model(step["image"])
        return None if forget else output["scores"].softmax(1)

    x, model = torch.randn(4, 3, 5, 5), Net()
    twins = [shadow(model), shadow(model)]
    for twin in twins:
        set_mode(twin, "eval")
    expected, _ = graph.watch(twins[0], (x,), what="net")
    found, _ = graph.watch(twins[1], ({"image": x, "id": 3},), what="net", by=by)
    assert expected.nodes["first"].origin.role == "input"
    assert (expected.nodes["last"].is_output, expected.nodes["second"].producer.consumers) == (True, 2)
    for path, node in expected.nodes.items():
        if path == "last" and not forget:  # what the function does with the scores comes after
            assert (found.nodes[path].is_output, [op.kind for op in found.nodes[path].followers]) == (True, ["softmax"])
        else:
            assert found.nodes[path] == node


STEP = {
    "pair": Pair(torch.zeros(2), [torch.ones(2), "a"]),
    "space": SimpleNamespace(z=torch.zeros(3)),
    "user": UserDict(t=(torch.zeros(1), 2)),
}


def test_a_step_is_gone_through_and_made_anew_without_a_change_of_it():
    places = [path for path, leaf in leaves(STEP) if isinstance(leaf, torch.Tensor)]
    assert places == [("pair", "x"), ("pair", "y", 0), ("space", "z"), ("user", "t", 0)]
    for other in (moved(STEP, torch.device("meta")), fresh(STEP)):
        assert [type(part) for part in other.values()] == [Pair, SimpleNamespace, UserDict]
        assert [path for path, _ in leaves(other)] == [path for path, _ in leaves(STEP)]
        other["pair"].y[1] = "b"
        other["space"].z = None
    assert all(leaf.device.type == "cpu" for _, leaf in leaves(STEP) if isinstance(leaf, torch.Tensor))
    assert (STEP["pair"].y[1], STEP["space"].z.tolist()) == ("a", [0.0, 0.0, 0.0])
    again = with_parts(STEP["user"], {"t": 1})
    assert (type(again), parts_of(again), parts_of(STEP["user"])["t"][1]) == (UserDict, {"t": 1}, 2)
