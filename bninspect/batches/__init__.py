"""Where a batch comes from: one file per kind of source."""
