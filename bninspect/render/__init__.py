"""How a report is written: one file per format, with ``SCHEMAS`` and ``render(report, *, color, width) -> str``."""
