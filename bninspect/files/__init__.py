"""A stranger's file, from bytes to arrays: nothing in it is run, imported or believed, and torch is not needed.

Pickles go through a machine of our own that only takes notes of what they describe; records are read by place, held
against their checksums and cut into arrays. Every refusal is a :class:`~bninspect.files.refused.Refused`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from bninspect._collector import without_collections
from bninspect.errors import SourceError
from bninspect.files.opened import opened
from bninspect.files.refused import Refused
from bninspect.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bninspect.files.opened import Opened


@contextlib.contextmanager
def reading(path: str) -> Iterator[Callable[[str], Opened]]:
    """A way to open files, which are closed afterwards; what is refused meanwhile is worded here.

    Args:
        path: the file that is asked for; it is named in the refusal.

    Raises:
        SourceError: the file was refused.
    """
    try:
        with contextlib.ExitStack() as stack, without_collections():
            yield lambda name: stack.enter_context(opened(name))
    except Refused as refusal:
        raise SourceError(f"cannot read '{printable(path)}': {refusal}") from None
    except (MemoryError, RecursionError):
        raise SourceError(f"cannot read '{printable(path)}': it asks for more memory than there is") from None
