"""A file is written whole or not at all, in pieces as well."""

from __future__ import annotations

import pytest

from bninspect.errors import BNInspectError
from bninspect.writing import write


def test_pieces_follow_each_other(tmp_path):
    write(tmp_path / "a", iter([b"one ", b"", b"two"]))
    assert (tmp_path / "a").read_bytes() == b"one two"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_an_error_after_a_piece_leaves_the_old_file(tmp_path, error):
    def pieces():
        yield b"new"
        raise error

    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(BNInspectError if error is OSError else error):
        write(tmp_path / "a", pieces())
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a", b"old")]
