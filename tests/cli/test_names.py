"""Names, sizes and files as people type them."""

from __future__ import annotations

import pytest
import torch


@pytest.mark.parametrize("name", ["resnet18", "ResNet18"])
def test_summary_takes_the_size_that_the_weights_are_evaluated_with(run, name):
    code, out, _ = run("summary", name)
    expected = run("summary", "resnet18", "--input", "3,224,224")[1]
    assert code == 0
    note = "Note: the input is of the size that ResNet18_Weights.IMAGENET1K_V1 is evaluated with: --input gives another"
    assert note in out
    assert [line for line in expected.splitlines() if "[" in line] == [
        line for line in out.splitlines() if "[" in line and line != note
    ]


def test_another_net_is_evaluated_with_another_size(run):
    out = run("summary", "inception_v3")[1]
    assert "[-1, 32, 149, 149]" in out  # of 299


def test_a_net_that_takes_no_image_needs_an_input(run):
    code, out, err = run("summary", "r3d_18")
    assert (code, out) == (2, "")
    assert "add --input" in err


@pytest.mark.parametrize("size", ["3x64x64", "3X64X64", "3,64,64", "3×64×64"])
def test_shapes_with_commas_and_with_crosses(run, size):
    code, out, _ = run("summary", "resnet18", "--input", size)
    assert code == 0
    assert "[-1, 64, 32, 32]" in out


def test_a_file_of_a_package_is_imported_by_its_full_name(run, tmp_path):
    folder = tmp_path / "lab" / "nets"
    folder.mkdir(parents=True)
    for place in (folder.parent, folder):
        (place / "__init__.py").touch()
    (folder.parent / "sizes.py").write_text("WIDTH = 5\n")
    (folder / "own.py").write_text(
        "from torch import nn\nfrom ..sizes import WIDTH\n\ndef make():\n"
        "    assert __name__ == 'lab.nets.own'\n    return nn.Sequential(nn.BatchNorm2d(WIDTH))\n"
    )
    code, out, err = run("summary", "lab/nets/own.py:make", "--input", "5,4,4")
    assert (code, err) == (0, "")
    assert "[-1, 5, 4, 4]" in out


TWO = """
import torch
from torch import nn
from torch.utils.data import DataLoader

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(3)
    def forward(self, image, scale):
        return self.bn(image * scale)

model = Two()
step = {"scale": torch.full((6, 1, 1, 1), 2.0), "image": torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 2, 2)}
loader = DataLoader([{name: value[i] for name, value in step.items()} for i in range(6)], batch_size=4)
"""


@pytest.mark.parametrize("source", ["net.py:step", "net.py:loader", "step.pt"])
@pytest.mark.parametrize("command", ["stats", "check"])
def test_several_inputs_are_named_in_order(run, tmp_path, source, command):
    (tmp_path / "net.py").write_text(TWO)
    names = {}
    exec(compile(TWO, "net.py", "exec"), names)
    torch.save(names["step"], tmp_path / "step.pt")
    size = ("--batch-size", "3") if source != "net.py:loader" else ()
    code, out, err = run(command, "net.py:model", "--batch", source, "--batch-key", "image,scale", *size)
    assert (code, err) == (0, "")
    if command == "stats":
        assert "6 images (2 pieces" in out
        assert " 5 " in next(line for line in out.splitlines() if line.startswith("bn "))  # the mean of 0, 2 ... 10
    code, _, err = run(command, "net.py:model", "--batch", source, "--batch-key", "image,mask")
    assert code == 2
    assert "holds no tensor 'mask'" in err
    code, _, err = run(command, "net.py:model", "--batch", source)
    assert code == 2
    assert "--forward" in err
