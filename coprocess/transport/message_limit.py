"""What a client is told of a message, or a reply, over `max_message_bytes`: the same by each engine."""

from __future__ import annotations


def too_large(what: str, size_bytes: int, limit_bytes: int) -> str:
    return f"the {what} is larger than the limit: {size_bytes} of {limit_bytes} bytes"
