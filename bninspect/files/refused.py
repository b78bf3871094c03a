"""The one answer of a reader that does not read on."""

from __future__ import annotations


class Refused(Exception):  # noqa: N818  # it is an answer, worded for the user at one place
    """The file is not read any further; the text is the reason, without the file's name."""
