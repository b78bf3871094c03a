"""README says what the program prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parent / "readme.py"


def test_readme_is_what_the_commands_print(python):
    done = subprocess.run([*python, str(TOOL), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_readme_that_differs_is_noticed(tmp_path):
    """The comparison forgives digits, and nothing else."""
    sys.path.insert(0, str(TOOL.parent))
    import readme

    assert readme.plain("mean 1.25   torch 2.15.0") == readme.plain("mean 3.5 torch 2.16.1+cu1")
    assert readme.plain("--sort COLUMN") != readme.plain("--top K")


def test_the_readme_is_short_and_leads_to_pages_that_are_there():
    root = TOOL.parents[1]
    text = (root / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 350
    links = re.findall(r"\]\((\.github/[^)]+)\)", text)
    assert len(links) > 10
    assert [link for link in links if not (root / link).exists()] == []
    pictures = re.findall(r"!\[[^]]+\]\((\.github/[^)]+)\)", text.partition("```")[0])
    assert {Path(picture).suffix for picture in pictures} == {".svg", ".png"}
    assert all((root / picture).stat().st_size <= 200_000 for picture in pictures)
    pages = {f".github/docs/{path.name}" for path in (root / ".github" / "docs").iterdir()}
    assert pages <= set(links)
