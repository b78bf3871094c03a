"""What one meets first: ``bninspect --help``, ``bninspect demo``, and the first example of each command."""

from __future__ import annotations

import runpy
import shlex
from pathlib import Path

import pytest
import torch
from torch import nn

from bninspect import cli, demo
from bninspect.cli._sections import SECTIONS
from bninspect.errors import InputError


def first_example(name):
    lines = cli.cli.commands[name].epilog.splitlines()
    return lines[lines.index("Examples:") + 1].strip()


@pytest.mark.parametrize("name", sorted(cli.cli.commands))
def test_the_first_example_of_a_command_works_in_an_empty_folder(name, run):
    parts = first_example(name).split(" && ")
    assert shlex.split(parts[-1])[:2] == ["bninspect", name]
    for part in parts:
        code, out, err = run(*shlex.split(part)[1:])
        assert code in (0, 1), err
    assert out or name == "report"


def test_help_shows_every_command_in_a_section(run):
    code, out, _ = run("--help")
    assert code == 0
    for name, module in cli.cli._modules.items():
        assert module.SECTION in SECTIONS
        assert f"\n  {name} " in out
        assert len(cli.cli.commands[name].short_help) <= 70
    files = {path.stem for path in Path(cli.__file__).parent.glob("[a-z]*.py")}
    assert set(cli.cli.commands) == files


def test_completion_is_told_in_a_line_that_works(python):
    import subprocess

    assert 'eval "$(_BNINSPECT_COMPLETE=bash_source bninspect)"' in cli.EPILOG
    done = subprocess.run(
        [*python, "-c", "from bninspect.cli import cli; cli(prog_name='bninspect')"],
        env={
            "_BNINSPECT_COMPLETE": "bash_source",
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(Path(cli.__file__).parents[2]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert "complete -o nosort -F _bninspect_completion bninspect" in done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "new"
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    found = demo.make(folder)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    return folder, found


def accuracy(model, loader):
    """Image by image, by hand."""
    right = count = 0
    with torch.no_grad():
        for images, labels in loader:
            right += sum(int(row.argmax()) == int(label) for row, label in zip(model(images), labels, strict=True))
            count += len(labels)
    return right / count


def test_the_files_of_the_demo_are_what_it_says(made):
    folder, found = made
    net = runpy.run_path(str(folder / "net.py"))
    model = net["net"]()
    model.load_state_dict(torch.load(folder / "best.pt", weights_only=True))
    assert accuracy(model.eval(), net["loader"]()) == found.by_running
    assert found.by_running < 0.6
    assert found.by_batch > 0.95
    for layer in (model[1], model[4]):  # with the statistics of the data it is as good as in training
        layer.reset_running_stats()
        layer.momentum = None
    with torch.no_grad():
        model.train()(torch.cat([images for images, _ in net["loader"]()]))
    assert accuracy(model.eval(), net["loader"]()) > 0.95
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == ["best.pt", "net.py", "run.jsonl"]


def test_a_folder_with_such_files_is_left_alone(made):
    folder, _ = made
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(InputError, match=r"net\.py exists: give a folder that is new or empty"):
        demo.make(folder)
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_the_demo_shows_the_fault_and_what_to_type(run, tmp_path):
    code, out, err = run("demo")
    assert (code, err) == (0, "A small network is trained on 3,840 made-up images ...\n")
    assert "new images in train mode, and about 4" in out
    assert "BN113  the running averages still hold more than 1 % of their initial values" in out
    assert "$ bninspect check demo/net.py:net --checkpoint demo/best.pt --batch demo/net.py:loader" in out
    assert "$ bninspect recalibrate demo/net.py:net" in out
    assert list(tmp_path.iterdir()) == []


def test_the_demo_network_has_the_fault_that_it_names():
    assert {layer.momentum for layer in demo_net() if isinstance(layer, nn.BatchNorm2d)} == {0.001}


def demo_net():
    from bninspect.demo.net import net

    return net()
