"""The GPU's kernel, run by Triton's interpreter on the CPU, in a process of its own: against the definition."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

if __name__ != "__main__" and importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not made for this system", allow_module_level=True)

ROOT = Path(__file__).parents[2]
PROMISE = 1e-6


def cases():
    """Inputs by name: shapes with tails and without, more images than programs, layouts, types, values."""
    import torch

    torch.manual_seed(0)
    last, last_3d = torch.channels_last, torch.channels_last_3d
    found = {}
    for offset in (0, 30, 1e4, 1e6):
        for name, shape in {"even": (4, 4, 32, 64), "tail": (5, 3, 37, 29), "small": (9, 33, 7, 7)}.items():
            x = torch.randn(shape) + offset
            found[f"{name}, offset {offset}"] = x
            found[f"{name}, offset {offset}, channels_last"] = x.contiguous(memory_format=last)
    found["one tile and no more"] = torch.randn(2, 1, 16, 32)
    found["flushed"] = torch.randn(1, 1, 100, 200) * 1e-3 + 1  # 39 tiles, more than are added in a register
    found["flushed, channels_last"] = (torch.randn(1, 64, 30, 40) * 1e-3 + 1).contiguous(memory_format=last)
    found["a ramp"] = torch.linspace(0, 1, 40000).view(1, 1, 100, 400)
    found["a ramp, channels_last"] = torch.linspace(0, 1, 128000).view(1, 2, 160, 400).contiguous(memory_format=last)
    found["in parts"] = torch.randn(2, 3, 180, 191) + 3
    found["in parts, channels_last"] = (torch.randn(2, 70, 61, 67) + 3).contiguous(memory_format=last)
    found["in parts, bfloat16"] = (torch.randn(1, 33, 90, 91) + 3).bfloat16().contiguous(memory_format=last)
    found["squares of many images in a register"] = torch.randn(40, 200, 5, 7)
    found["3-d"] = torch.randn(6, 5, 700)
    found["5-d"] = torch.randn(2, 3, 5, 6, 7)
    found["5-d, channels_last"] = torch.randn(2, 3, 5, 6, 7).contiguous(memory_format=last_3d)
    found["one image"] = torch.randn(1, 7, 9, 9)
    found["two positions"] = torch.randn(5, 7, 1, 2)
    found["constant"] = torch.full((3, 4, 9, 11), 0.1)
    found["zeros"] = torch.zeros(3, 4, 9, 11)
    found["many zeros"] = torch.randn(3, 4, 20, 30).relu()
    found["images that differ"] = torch.randn(8, 3, 12, 12) + 100 * torch.randn(8, 3, 1, 1)
    for dtype in (torch.float16, torch.bfloat16):
        found[str(dtype)] = (torch.randn(3, 5, 20, 30) + 2).to(dtype)
        found[f"{dtype}, channels_last"] = (torch.randn(3, 5, 20, 30) + 2).to(dtype).contiguous(memory_format=last)
    broken = torch.randn(3, 5, 20, 30)
    broken[1, 2, 3, 4], broken[0, 3, 0, 0], broken[2, 4, 19, 29] = float("nan"), float("inf"), float("-inf")
    found["broken"] = broken
    far = torch.randn(1, 2, 20, 4, 512) + 1000
    far[:, :, :, 0] -= 1000
    found["far from its shifts"] = far.flatten(2)  # which are the means of every fourth tile
    found["two values, 1200 tiles"] = 0.1 * torch.arange(1200 * 512).remainder(3).clamp(max=1).float().view(1, 1, -1)
    return found


def same(moments, others):
    """Whether all their figures are, to the bit."""
    return all(np.array_equal(one, other, equal_nan=True) for one, other in zip(moments, others, strict=True))


def patch_once():
    """Triton's interpreter exchanges its language anew at each call of a function in a kernel: half of its time."""
    from triton.runtime import interpreter

    exchanged = functools.cache(interpreter._patch_lang)

    def call(self, *args, **kwargs):
        exchanged(self.fn)
        return self.rewrite()(*args, **kwargs)

    interpreter.InterpretedFunction.__call__ = call


def main():
    """Print, for each case, how far its figures are from the definition, and which channels are in doubt."""
    import torch

    from bninspect.moments import exact, queued, triton

    patch_once()
    kernels = triton.Kernels(torch.device("cpu"), processors=1)
    inputs = cases()
    slots = {name: kernels.launch(x) for name, x in inputs.items()}
    kernels.finish()
    report = {}
    for name, slot in slots.items():
        (found,), twin = triton.slots_together([slot]), exact(inputs[name])
        sure = ~queued.doubtful(found)
        std = np.sqrt(twin.M2 / twin.count)
        with np.errstate(invalid="ignore", divide="ignore"):
            errors = {
                "M2": np.where(twin.M2 > 0, abs(found.M2 / twin.M2 - 1), abs(found.M2)),
                "mean": np.where(std > 0, abs(found.mean - twin.mean) / std, abs(found.mean - twin.mean)),
                "image_M2": abs(found.image_M2 - twin.image_M2) / np.maximum(twin.M2 / twin.count, 1e-300),
            }
        equal = all(
            (getattr(found, field)[sure] == getattr(twin, field)[sure]).all()
            for field in ("count", "images", "nonfinite", "zeros", "min", "max")
        )
        worst = {field: float(error[sure].max(initial=0)) for field, error in errors.items()}
        report[name] = {**worst, "equal": bool(equal), "doubtful": np.flatnonzero(~sure).tolist()}
    refused = [
        torch.randn(4, 3),
        torch.randn(4, 3, 1, 1),
        torch.randn(2, 3, 4, 5).double(),
        torch.randn(2, 3, 8, 8)[..., ::2],
        torch.randn(0, 3, 4, 4),
    ]
    plans = [triton.plan_of(triton.shape_of(x), 1) for x in inputs.values()]
    report["cut"] = [max(plan.parts for plan in plans), max(plan.per for plan in plans)]
    report["refused"] = [kernels.launch(x) is None for x in refused]
    parts = {name: triton.slots_together([slot])[0] for name, slot in slots.items()}
    whole = triton.slots_together(list(slots.values()))[0]
    report["side by side"] = same(whole, map(np.concatenate, zip(*parts.values(), strict=True)))
    slots = {name: kernels.launch(inputs[name]) for name in ("one tile and no more", "5-d, channels_last", "one image")}
    kernels.finish()
    report["again"] = all(same(triton.slots_together([slot])[0], parts[name]) for name, slot in slots.items())
    print(json.dumps(report))


@pytest.fixture(scope="module")
def report():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


DOUBTFUL = {"broken": [2, 3, 4], "far from its shifts": [0, 1]}


def test_every_case_keeps_the_promise(report):
    found = {name: case for name, case in report.items() if isinstance(case, dict)}
    assert len(found) > 40
    for name, case in found.items():
        assert case["M2"] <= PROMISE, name
        assert case["mean"] <= PROMISE, name
        assert case["image_M2"] <= PROMISE, name
        assert case["equal"], name


def test_images_in_parts_and_programs_of_many_images_are_among_the_cases(report):
    parts, images = report["cut"]
    assert parts > 3
    assert images > 16


def test_what_cannot_be_trusted_is_measured_again_and_nothing_else(report):
    found = {name: case["doubtful"] for name, case in report.items() if isinstance(case, dict)}
    assert {name: channels for name, channels in found.items() if channels} == DOUBTFUL


def test_what_the_kernel_does_not_take_goes_another_way(report):
    assert report["refused"] == [True] * 5


def test_layers_lie_side_by_side_and_a_second_forward_beside_the_first(report):
    assert report["side by side"]
    assert report["again"]


if __name__ == "__main__":
    main()
