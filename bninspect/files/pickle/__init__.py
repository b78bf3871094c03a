"""A pickle that is only described: opcodes in, descriptions of objects out; nothing is imported, nothing is called."""
