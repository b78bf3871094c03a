"""What is generated in README and its pages: outputs of real commands, help texts, and a picture of one.

``--write`` renews them, ``--check`` compares.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import torch
from rich.console import Console
from rich.text import Text

from bninspect import cli, demo

sys.path.insert(0, str(Path(__file__).parent))
from loops import broken_run  # a module beside this one

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / ".github" / "docs").glob("*.md"))]
PICTURE = ROOT / ".github" / "check.svg"
WIDTH = 100  # of the terminal in the picture
RUN = re.compile(r"(<!-- run: (.+?) -->\n)(?:\n```console\n.*?\n```\n)?", re.DOTALL)
HELP = re.compile(r"(<!-- help -->\n).*\Z", re.DOTALL)
NETS = """
from torch import nn

def make(width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(),
                         nn.Conv2d(width, 2 * width, 3), nn.BatchNorm2d(2 * width))
"""


def main(action: str) -> int:
    old = {path: path.read_text(encoding="utf-8") for path in [*PAGES, PICTURE] if path.exists()}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        prepare(Path(folder))
        new = {path: HELP.sub(lambda match: match[1] + helps(), RUN.sub(example, old[path])) for path in PAGES}
        new[PICTURE] = picture("check demo/net.py:net --checkpoint demo/best.pt --batch demo/net.py:loader")
    if action == "--write":
        for path, text in new.items():
            path.write_text(text, encoding="utf-8")
        return 0
    others = [path for path in new if plain(old.get(path, "")) != plain(new[path])]
    for path in others:
        print(f"{path.relative_to(ROOT)} is not what the commands print: run `make readme`, and look at the difference")
    return bool(others)


def picture(command: str) -> str:
    """The output of a command in a terminal, as an SVG."""
    os.environ["COLUMNS"] = str(WIDTH)
    printed = output([*command.split(), "--color", "always"], columns=True)
    console = Console(width=WIDTH, record=True, file=io.StringIO())
    console.print(f"[bold]$[/bold] bninspect {command}\n", highlight=False)
    console.print(Text.from_ansi(printed))
    drawn = console.export_svg(title="bninspect", unique_id="bninspect")
    return re.sub(r"@font-face \{.*?\}\n", "", drawn, flags=re.DOTALL) + "\n"  # fonts of another host


def prepare(folder: Path) -> None:
    """The files that the examples name."""
    (folder / "nets.py").write_text(NETS)
    broken_run(folder / "run.jsonl")
    demo.make(folder / "demo")
    note = [[[[1.0, 2.0]], [[2.0, 1.0]], [[2.0, 2.0]]], [[[2.0, 2.0]], [[3.0, 1.0]], [[1.0, 2.0]]]]
    torch.save(torch.tensor(note), folder / "note.pt")
    generator = torch.Generator().manual_seed(0)
    torch.save(
        torch.randn(16, 3, 32, 32, generator=generator) + torch.randn(16, 3, 1, 1, generator=generator), "batch.pt"
    )

    torch.manual_seed(0)
    state = nets_py().make().state_dict()
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}, "best.pt")


def nets_py() -> Any:
    namespace: dict[str, Any] = {}
    exec(NETS, namespace)  # the file that the examples name, as a module
    return SimpleNamespace(**namespace)


def example(match: re.Match[str]) -> str:
    text, _, head = match[2].partition(" | head -")
    lines = output(shlex.split(text)[1:]).splitlines()
    lines = [*lines[: int(head)], "..."] if head else lines
    return f"{match[1]}\n```console\n$ {text}\n" + "\n".join(lines) + "\n```\n"


def output(arguments: list[str], *, columns: bool = False) -> str:
    for name in ("FORCE_COLOR", "NO_COLOR", "BNINSPECT_FORMAT", *(() if columns else ("COLUMNS",))):
        os.environ.pop(name, None)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = cli.run(arguments)
    assert code in (0, 1), (arguments, code)
    return out.getvalue()


def helps() -> str:
    blocks = [f"\n```console\n$ bninspect --help\n{text(cli.cli, 'bninspect')}\n```\n"]
    for name, command in sorted(cli.cli.commands.items()):
        blocks.append(f"\n```console\n$ bninspect {name} --help\n{text(command, f'bninspect {name}')}\n```\n")
    return "".join(blocks)


def text(command: click.Command, name: str) -> str:
    with click.Context(command, info_name=name, terminal_width=100, max_content_width=100) as context:
        return command.get_help(context)


def plain(readme: str) -> str:
    """Without what differs between machines: versions, digits of measured numbers, and the width of columns."""
    if readme.startswith("<svg"):
        readme = " ".join(re.sub(r"<[^>]*>|&#160;", " ", readme).split())
    readme = re.sub(r"(bninspect|Python|torch|torchvision|timm) \d[\w.+]*", r"\1", readme)
    readme = readme.replace(", torchvision", "").replace(", timm", "")
    readme = re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)?", "#", readme)
    return re.sub(r"[ \-]+", " ", readme)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
