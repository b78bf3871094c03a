"""How a report is written: one file per format, each with ``SCHEMAS`` and ``render(report, *, color, width) -> str``."""
