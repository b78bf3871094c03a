"""Commands in processes of their own, run to their end."""

from __future__ import annotations

import subprocess


def ended(command, **streams):
    return subprocess.run(command, check=False, text=True, **(streams or {"capture_output": True}))
