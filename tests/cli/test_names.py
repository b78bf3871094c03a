"""Names, sizes and files as people type them."""

from __future__ import annotations

import json
import subprocess
from functools import partial

import pytest
import torch
from torch import nn

import bninspect
from bninspect.errors import InputError


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


NAMED = (
    TWO.replace("def forward(self, image, scale)", "def forward(self, *, image, scale)")
    + """
pairs = DataLoader([(value["image"], value["scale"]) for value in loader.dataset], batch_size=4)
labelled = [{**step, "label": torch.zeros(6).long()}]
"""
)


@pytest.mark.parametrize(
    ("source", "key"),
    [
        ("net.py:step", "image=image,scale=scale"),
        ("net.py:loader", "scale=scale, image = image"),
        ("net.py:pairs", "image=0,scale=1"),
        ("step.pt", "image=image,scale=scale"),
    ],
)
@pytest.mark.parametrize("command", ["stats", "check", "recalibrate", "noise"])
def test_inputs_are_given_by_name(run, tmp_path, source, key, command):
    (tmp_path / "net.py").write_text(NAMED)
    names = {}
    exec(compile(NAMED, "net.py", "exec"), names)
    torch.save(names["step"], tmp_path / "step.pt")
    options = {"check": ["--exit-zero"], "noise": ["--batch-size", "2"], "stats": ["--format", "json"]}.get(command, [])
    code, out, err = run(command, "net.py:model", "--batch", source, "--batch-key", key, *options)
    assert (code, err) == (0, "")
    if command == "stats":
        report = json.loads(out)
        assert (report["num_images"], report["layers"][0]["mean_max"]) == (6, 5.0)  # of 0, 2 ... 10
        assert report["source"]["batch_element"] == key


def test_what_is_wrong_with_names_is_said(run, tmp_path):
    (tmp_path / "net.py").write_text(NAMED)
    model = ("net.py:model", "--batch", "net.py:loader")
    for words, said in (
        ((), "an input that is taken by name: --batch-key ARGUMENT=KEY"),
        (("--batch-key", "image=mask,scale=scale"), "holds no tensor 'mask': it holds scale, image"),
        (("--batch-key", "x=image"), "an unexpected keyword argument 'x' (a step holds scale, image)"),
        (("--batch-key", "image=image"), "argument: 'scale' (a step holds scale, image)"),
        (("--batch-key", "a b=image"), "is not of the form argument=key"),
        (("--batch-key", "image=image,image=scale"), "each argument once"),
        (("--batch-key", "image=image", "--forward", "net.py:Two"), "leave --batch-key out"),
        (("--batch-key", "image=image", "--parts", "run"), "--batch-key ARGUMENT=KEY runs a loader's steps"),
        (("--batch-key", "image=image,scale=scale", "--batch-size", "2"), ""),
    ):
        code, _, err = run("stats", *model, *words)
        assert (code, said in err) == (2 if said else 0, True), err
    code, _, err = run("stats", "--batch", "net.py:loader", "--batch-key", "x=image")
    assert (code, "--batch-key ARGUMENT=KEY runs a MODEL, and none was given" in err) == (2, True)
    code, _, err = run("check", "net.py:model", "--batch-key", "x=image")
    assert (code, "add --batch SOURCE" in err) == (2, True)


def test_labels_are_found_beside_inputs_by_name(run, tmp_path):
    (tmp_path / "net.py").write_text(NAMED)
    key = ("--batch", "net.py:labelled", "--batch-key", "image=image,scale=scale", "--format", "json")
    code, out, _ = run("recalibrate", "net.py:model", *key)
    assert (code, json.loads(out)["predictions"]["num_labelled"]) == (0, 0)  # of a dense prediction
    source = NAMED.replace("return self.bn(image * scale)", "return self.bn(image * scale).mean((2, 3))")
    (tmp_path / "nets.py").write_text(source)
    code, out, _ = run("recalibrate", "nets.py:model", *(word.replace("net.py", "nets.py") for word in key))
    assert (code, json.loads(out)["predictions"]["num_labelled"]) == (0, 6)


def test_a_dict_in_the_api_is_told_how_to_be_used():
    step = {"image": torch.randn(4, 3, 8, 8), "label": torch.arange(4)}
    words = r"held dict of image, label: forward=lambda model, step: model\(step\['image'\]\)"
    for use in (bninspect.stats, bninspect.check, bninspect.recalibrate, partial(bninspect.noise, batch_size=2)):
        for batch in ([step], step):
            with pytest.raises(InputError, match=words):
                use(nn.Sequential(nn.BatchNorm2d(3)), batch)
        with pytest.raises(InputError, match=r"and held int$"):
            use(nn.Sequential(nn.BatchNorm2d(3)), 3)


WARNS = """
import warnings, torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(3)
        torch.meshgrid(torch.arange(3), torch.arange(3))
        warnings.warn("mine, of two\\nlines")

    def forward(self, x):
        torch.meshgrid(torch.arange(3), torch.arange(3))
        return self.bn(x)
"""


def test_warnings_of_torch_are_told_with_v_and_those_of_a_model_in_a_line(python, tmp_path):
    (tmp_path / "nets.py").write_text(WARNS)
    command = [*python, "-m", "bninspect", "summary", "nets.py:Net", "--input", "3,8,8"]
    quiet, loud = (
        subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True, check=True)
        for more in ([], ["-v"])
    )
    assert quiet.stderr == "Warning: mine, of two\\nlines (nets.py:10)\n"
    assert "UserWarning: torch.meshgrid: in an upcoming release" in loud.stderr
    assert "UserWarning: mine, of two" in loud.stderr
    assert quiet.stdout == loud.stdout
