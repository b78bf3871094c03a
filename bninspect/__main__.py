"""``python -m bninspect``."""

from bninspect.cli import main

main()
