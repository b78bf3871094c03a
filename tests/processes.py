"""Commands in processes of their own, run to their end."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


def ended(command, **streams):
    return subprocess.run(command, check=False, text=True, **(streams or {"capture_output": True}))


def without_privileges() -> list[str]:
    """A prefix under which permissions hold, for whoever runs the tests as root."""
    if os.geteuid():
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root may read and write everything, and there is no setpriv to drop that right")
    return ["setpriv", *(f"--{name}=-dac_override,-dac_read_search" for name in ("bounding-set", "inh-caps"))]
