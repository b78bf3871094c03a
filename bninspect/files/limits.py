"""How much of everything a file may ask for: well above any honest file, far below what hurts.

The yardsticks are 100,000 BatchNorm layers with their optimizer's state and one layer of a million channels.
"""

from __future__ import annotations

PICKLE_BYTES = 100_000_000
"""Length of one pickle: 100,000 layers take some 55 MB."""

PICKLE_STEPS = 10_000_000
"""Opcodes of one pickle, a tensor as torch.save spells it being one: 100,000 layers of parameters take 6 million."""

PICKLE_OBJECTS = 4_000_000
"""Objects alive at once while a pickle is read."""

PICKLE_DIGITS = 4_000
"""Digits of a number written as text."""

ENTRIES = 2_000_000
"""Entries of a zip directory, tensors of a safetensors header, nodes of a walk."""

DIRECTORY_BYTES = 1 << 27
"""Length of a zip directory: that of half a million records is 40 MB."""

INFLATED_FREELY = 1 << 24
"""A compressed record that claims no more than this is inflated whatever its ratio: fresh layers are all ones."""

INFLATED_RATIO = 100
"""How many times longer than in the file any other compressed record may be: weights shrink by a tenth."""

INFLATED_BYTES = 1 << 29
"""Bytes of all compressed records together, where they are more than four times the file."""

PARTS = 1 << 19
"""Tensors and containers of a batch: a list of a hundred thousand samples has some three each."""

DEPTH = 200
"""Containers within containers."""

HEADER_BYTES = 100_000_000
"""Length of a safetensors header: the format's own limit."""

ENTRY_BYTES = 20_000
"""Length of one tensor's entry in a JSON header."""

JSON_BYTES = 1 << 26
"""Length of a JSON file: a shard index, the graph of an exported model."""

DIMENSIONS = 64
"""Dimensions of a tensor: what torch can hold."""

SHARDS = 2_000
"""Files that one shard index may name."""

CHANNELS = 1 << 25
"""Channels of one layer."""

FREE_ELEMENTS = 1 << 20
"""Elements that views may show beyond four times what is stored."""

CHUNK = 1 << 20
"""Bytes read at once where a record is only checked."""

WHOLE_RECORD = 1 << 25
"""A record up to this long is read once and kept until its tensors are cut out of it."""

CHECKED_BYTES = 1 << 30
"""Bytes of records longer than that that are read in full for their checksum."""

ELEMENTS = 1 << 26
"""Elements of all the BatchNorm tensors of a file."""

READS = 100_000
"""Places that one scattered tensor may be read from."""

NAME_CHARACTERS = 1 << 26
"""Length of all the paths of a file's layers together."""
