"""URLs and queries as Go's `net/url` reads and writes them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import quote, quote_plus, unquote_to_bytes

#: A query, decoded: each name with its values in order. Bytes that are not UTF-8 are surrogates.
Values = dict[str, list[str]]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*\Z")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
#: What may stand in a path without being escaped; Go keeps a path that has nothing else as it came.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9\-_.~!$&'()*+,;=:@\[\]/%]*\Z")
_ESCAPE_KEEPS = "$&+,/:;=@~-_."


class BadUrl(ValueError):
    """Go's `url.ParseRequestURI` refuses this text."""


def _unescape(text: str) -> str:
    return unquote_to_bytes(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Url:
    """A parsed request URI. `path` is still escaped; `query` is None where there is no `?`."""

    path: str
    query: str | None = None
    scheme: str = ""
    host: str = ""

    @property
    def decoded_path(self) -> str:
        return _unescape(self.path)

    @property
    def request_uri(self) -> str:
        """Path and query, as in a request line."""
        return (self.path or "/") + ("" if self.query is None else f"?{self.query}")

    def __str__(self) -> str:
        origin = f"{self.scheme}://{self.host}" if self.scheme else ""
        return origin + self.path + ("" if self.query is None else f"?{self.query}")

    def values(self) -> Values:
        return parse_query(self.query or "")

    def with_query(self, query: str) -> Url:
        # Go writes a lone `?` only where one was read, and a query that was replaced was not.
        return replace(self, query=query or None)


def parse_request_uri(text: str) -> Url:
    """An absolute path or an absolute URL; anything else is BadUrl (recording `url_relative`)."""
    if not text or _CONTROL.search(text):
        raise BadUrl(f"{text!r} is not a request URI")
    scheme, colon, rest = text.partition(":")
    if not colon or not _SCHEME.match(scheme):
        scheme, rest = "", text
    rest, mark, query = rest.partition("?")
    host = ""
    if scheme and rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        rest = slash + path
    elif not rest.startswith("/"):
        raise BadUrl(f"{text!r} is neither an absolute path nor an absolute URL")
    if _BAD_ESCAPE.search(rest):
        raise BadUrl(f"{text!r} has a % that escapes nothing")
    return Url(_escaped_path(rest), query if mark else None, scheme.lower(), host)


def _escaped_path(path: str) -> str:
    if _PLAIN_PATH.match(path):
        return path
    return quote(_unescape(path).encode("utf-8", "surrogateescape"), safe=_ESCAPE_KEEPS)


def parse_query(query: str) -> Values:
    """Pairs with a semicolon or a broken escape are left out, as Go does in silence."""
    values: Values = {}
    for pair in query.split("&"):
        if not pair or ";" in pair:
            continue
        name, _, value = pair.partition("=")
        if _BAD_ESCAPE.search(name) or _BAD_ESCAPE.search(value):
            continue
        values.setdefault(_unescape(name.replace("+", " ")), []).append(_unescape(value.replace("+", " ")))
    return values


def encode_query(values: Values) -> str:
    """Sorted by name (recording `add_params`)."""
    return "&".join(
        f"{_quoted(name)}={_quoted(value)}"
        for name in sorted(values, key=lambda text: text.encode("utf-8", "surrogateescape"))
        for value in values[name]
    )


def _quoted(text: str) -> str:
    return quote_plus(text.encode("utf-8", "surrogateescape"))


def strip_listen_path(path: str, listen_path: str) -> str:
    """What the upstream gets of `path`."""
    stripped = path.removeprefix(listen_path)
    return stripped if stripped.startswith("/") else f"/{stripped}"


def join_paths(first: str, second: str) -> str:
    """With exactly one slash between."""
    return f"{first.removesuffix('/')}/{second.removeprefix('/')}"
