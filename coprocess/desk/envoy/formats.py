"""Values of gRPC metadata, which Envoy formats as those of headers that it adds: `%NAME%` is filled in."""

from __future__ import annotations

import re

_FORMAT = re.compile(r"%([A-Z][A-Z0-9_]*)(?:\([^)]*\))?(?::\d+)?%")


def formats_in(value: str) -> list[str]:
    """What Envoy fills in. Raises ValueError for a percent sign that begins none: no call is made then."""
    rest = value.replace("%%", "")
    if "%" in _FORMAT.sub("", rest):
        raise ValueError("a % that is not written %%")
    return [found[0] for found in _FORMAT.finditer(rest)]


def as_written(text: str) -> str:
    """The value that is sent as `text`."""
    return text.replace("%", "%%")


def as_sent(value: str) -> str:
    """`value`, which has no formats, as the service gets it."""
    return value.replace("%%", "%")
