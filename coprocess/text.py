"""Text of others, made harmless for a terminal, a log and a status."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` with escapes in place of control characters, and of halves of surrogate pairs."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
