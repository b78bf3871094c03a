"""A machine's run through its pickle: one opcode after the other, as many as an honest file may have."""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING, Any

from bninspect.files import limits
from bninspect.files.pickle.opcodes import TABLE, Stop
from bninspect.files.refused import Refused

if TYPE_CHECKING:
    from bninspect.files.pickle.machine import Machine

_BETWEEN_CHECKS = 1 << 15
_MALFORMED = (IndexError, KeyError, ValueError, struct.error)


class Short(Exception):  # noqa: N818 - a signal: the caller may have more bytes
    """The pickle goes on after the bytes at hand."""


def run(machine: Machine) -> Any:
    """The object that the pickle describes.

    Raises:
        Refused: it is malformed, or larger than any honest one.
        Short: it ends before its STOP.
    """
    try:
        _steps(machine)
    except Stop:
        return machine.stack[-1] if machine.stack else None
    except _MALFORMED as error:
        if machine.pos >= len(machine.data):
            raise Short from error
        raise Refused(f"its pickle is damaged at byte {machine.pos}") from error
    raise Refused(f"its pickle has more than {limits.PICKLE_STEPS:,} steps")


def _steps(machine: Machine) -> None:
    data, table = machine.data, TABLE
    blocks = sys.getallocatedblocks()
    for _ in range(limits.PICKLE_STEPS // _BETWEEN_CHECKS):
        for _ in range(_BETWEEN_CHECKS):
            opcode = data[machine.pos]
            machine.pos += 1
            table[opcode](machine)
        if sys.getallocatedblocks() - blocks > limits.PICKLE_OBJECTS:
            raise Refused(f"its pickle makes more than {limits.PICKLE_OBJECTS:,} objects")
