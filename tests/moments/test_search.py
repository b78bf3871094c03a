"""Some hundreds of the random inputs of ``tests/search.py``, and whether it would notice."""

from __future__ import annotations

import pytest
import torch
from search import faults, search

from bninspect.moments import cpu

SEED = 3


@pytest.mark.parametrize("part", range(4))
def test_random_inputs_keep_the_promise(part, one_thread):
    assert not search(100, SEED + part)


@pytest.mark.parametrize("field", cpu.Moments._fields)
def test_a_figure_that_is_off_is_noticed(field):
    x = torch.randn(4, 3, 20, 20) + 5
    found = cpu.measure(x)
    assert not faults(found, x)
    off = getattr(found, field) * (1 + (1e-4 if field == "image_M2" else 3e-6)) + (field in ("zeros", "nonfinite"))
    assert field in faults(found._replace(**{field: off}), x)[0]
