"""Bodies that a recording gives by length and digest: made again, where they are one byte over and over."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from typing import Any

_LIKELY = b"x0aAyzYZX .\0"


def body_of(value: Any) -> bytes:
    """From base64, or from `{"length", "sha256"}`. Raises ValueError."""
    if value is None:
        return b""
    if isinstance(value, str):
        return base64.b64decode(value, validate=True)
    length = value["length"]
    for body in _bodies(length):
        if "sha256" not in value or hashlib.sha256(body).hexdigest() == value["sha256"]:
            return body
    raise ValueError(f"a body of {length} bytes is given by its digest, and is not one byte over and over")


def text_body_of(value: dict[str, Any]) -> bytes:
    """The bytes whose base64 is given by `{"length", "sha256_of_text"}`. Raises ValueError."""
    for padding in range(3):
        for body in _bodies(value["length"] // 4 * 3 - padding):
            if is_text(base64.b64encode(body).decode(), value):
                return body
    raise ValueError(
        f"a text of {value['length']} characters is given by its digest, and cannot be made again"
    )


def is_body(body: bytes, value: Any) -> bool:
    """Whether `body` is what the recording has."""
    if isinstance(value, dict):
        digest = value.get("sha256")
        return len(body) == value["length"] and digest in (None, hashlib.sha256(body).hexdigest())
    return body == body_of(value)


def is_text(text: str, value: dict[str, Any]) -> bool:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return bool(len(text) == value["length"] and digest == value["sha256_of_text"])


def is_digest(value: Any) -> bool:
    return isinstance(value, dict) and "length" in value and "sha256_of_text" in value


def _bodies(length: int) -> Iterator[bytes]:
    for number in (*_LIKELY, *(number for number in range(256) if number not in _LIKELY)):
        yield bytes([number]) * length
