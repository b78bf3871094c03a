"""The errors that bninspect raises on purpose: what was asked, what was found, what to try; and its warning."""

from __future__ import annotations


class BNInspectError(Exception):
    """Something that was asked for could not be done; the text says why and what to try."""


class SourceError(BNInspectError):
    """A model or a batch could not be found, read or built."""


class InputError(BNInspectError):
    """A batch, a shape or an option does not fit the model it was given to."""


class ForwardError(BNInspectError):
    """The model's own forward raised; the text holds its error and the layer it was in."""


class WatchWarning(UserWarning):
    """Something that went wrong while a model trains, or a record that cannot be written; the training goes on."""
