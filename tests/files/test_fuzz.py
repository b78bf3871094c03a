"""A short run of the mutation fuzzer; ``make fuzz`` is the long one."""

import fuzz


def test_mutated_files_are_read_or_refused(tmp_path):
    tally = fuzz.run(400, 0, tmp_path)
    assert {reader: sum(done.values()) for reader, done in tally.items()} == dict.fromkeys(tally, 400)
    assert all(done["read"] and done["refused"] for done in tally.values())
