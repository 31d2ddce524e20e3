"""The cookies of a request, read as browsers and servers do: what cannot be read is left out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

_ESCAPE = re.compile(r"\\([0-7]{3}|.)")


def parse_cookies(header: str) -> Mapping[str, str]:
    """Name to value, of a Cookie header. Of two with one name the first counts: it is for the nearer path."""
    cookies: dict[str, str] = {}
    for pair in header.split(";"):
        name, equals, value = pair.partition("=")
        name = name.strip(" \t")
        if name and equals:
            cookies.setdefault(name, _unquoted(value.strip(" \t")))
    return MappingProxyType(cookies)


def _unquoted(value: str) -> str:
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    return _ESCAPE.sub(lambda found: _escaped(found[1]), value[1:-1])


def _escaped(code: str) -> str:
    # As Python's http.cookies writes what may not stand in a value.
    return chr(int(code, 8)) if len(code) == 3 else code
