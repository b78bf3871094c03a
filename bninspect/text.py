"""Names are data: how a stranger's text is shown without ever steering a terminal."""

from __future__ import annotations

import unicodedata

_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn"}


def printable(text: str, limit: int = 200) -> str:
    """``text`` on one line, with control, bidirectional and surrogate characters written as escapes.

    Args:
        text: any string, a layer's or a file's name.
        limit: longer results are cut in the middle, which is shown by an ellipsis.
    """
    if len(text) <= limit and text.isascii() and text.isprintable():
        return text
    if len(text) > 4 * limit:
        text = text[: 2 * limit] + "…" + text[-2 * limit :]
    if not text.isascii() or not text.isprintable():
        text = "".join(_escape(char) for char in text)
    if len(text) > limit:
        half = (limit - 1) // 2
        text = text[:half] + "…" + text[-half:]
    return text


def _escape(char: str) -> str:
    return ascii(char)[1:-1] if unicodedata.category(char) in _UNSAFE else char
