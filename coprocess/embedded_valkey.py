"""The former place of `coprocess.store.embedded`."""

from coprocess.store.embedded import EmbeddedValkey, find_binary

__all__ = ["EmbeddedValkey", "find_binary"]
