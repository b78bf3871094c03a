"""Files that a stranger might send: built by code, never stored."""
