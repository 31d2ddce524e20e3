"""HTTP as every gateway has it: header and query mappings, and a parser for a recorded request."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import parse_qsl, quote

from multidict import CIMultiDict, MultiDict

from coprocess.bounded import kept_by_name
from coprocess.errors import BadMessage
from coprocess.expected import expect_text, wrong_type

_TOKEN_CHARACTERS = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")

# All but the tab.
_CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


_ASCII = bytes(range(0x80))

#: What a path may hold as it is (RFC 3986), beside letters, digits and `-._`.
IN_PATHS = "/:@!$&'()*+,;=~"


def expect_final_status(status: object, highest: int = 999) -> int:
    """`status`, if it may end a response; else ValueError."""
    if not isinstance(status, int) or not 200 <= status <= highest:
        raise ValueError(f"a final HTTP status is 200 to {highest}, not {status!r}")
    return status


def escaped(target: bytes) -> str:
    """A path or a query with what is not ASCII escaped, and all else as it is."""
    return target.decode() if target.isascii() else quote(target, safe=_ASCII)


def encoded_path(path: str | bytes) -> str:
    """A path that was decoded: as clients write it, so that it reads the same in all homes."""
    return quote(path, safe=IN_PATHS)


def is_token(text: str) -> bool:
    """Whether `text` is a word as HTTP has them for methods and header names."""
    return bool(text) and _TOKEN_CHARACTERS.issuperset(text)


@kept_by_name
def canonical_name(name: str) -> str:
    """`x-request-id` → `X-Request-Id`, the spelling in which gateways write header names.

    A name with characters that HTTP does not allow is returned as it is.
    """
    if not name or not _TOKEN_CHARACTERS.issuperset(name):
        return name
    return "-".join(part[:1].upper() + part[1:].lower() for part in name.split("-"))


@kept_by_name
def header_name(name: str) -> str:
    """The canonical spelling of a name that is to be sent.

    Raises TypeError where it is no text, ValueError where HTTP does not allow it.
    """
    expect_text("a header name", name)
    if not name or not _TOKEN_CHARACTERS.issuperset(name):
        raise ValueError(f"{name!r} is no HTTP header name")
    return canonical_name(name)


def header_value(name: str, value: str) -> str:
    """`value`, if it may be sent as the value of header `name`; else TypeError or ValueError."""
    if not isinstance(value, str):
        raise wrong_type(f"header {name}: the value", "a str", value)
    if value.isprintable():
        return value
    if _CONTROL_CHARACTER.search(value):
        # A gateway does not send such a request to the upstream: it fails.
        raise ValueError(f"header {name}: a value has no line breaks and no other control characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"header {name}: the value cannot be encoded as UTF-8") from None
    return value


class Headers(MutableMapping[str, str]):
    """HTTP headers. Names are case-insensitive; a name may have several values.

    `headers[name]` is the first value, KeyError where there is none; setting it replaces all values;
    deleting a name deletes all. Iteration gives each name once, in canonical spelling.
    """

    __slots__ = ()

    @abstractmethod
    def getall(self, name: str) -> list[str]:
        """All values of `name`, as far as the gateway shows them; an empty list where there is none."""

    @abstractmethod
    def add(self, name: str, value: str) -> None:
        """Add a value beside those that `name` has."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self.getall(name))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({sorted((name, self.getall(name)) for name in self)})"


class MultiHeaders(Headers):
    """Headers that are held here, in order, with all their values."""

    __slots__ = ("_values",)

    def __init__(self, headers: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        self._values: CIMultiDict[str] = CIMultiDict()
        if isinstance(headers, str | bytes):  # type: ignore[unreachable]  # what handlers pass is not checked
            raise wrong_type("headers", "a mapping or a list of pairs", headers)
        for name, value in headers.items() if isinstance(headers, Mapping) else headers:
            self.add(name, value)

    @classmethod
    def unchecked(cls, pairs: Iterable[tuple[str, str]]) -> MultiHeaders:
        """From names and values as they arrived, whatever they are: nothing is lost or refused."""
        headers = cls()
        headers._values.extend(pairs)
        return headers

    def __getitem__(self, name: str) -> str:
        try:
            return self._values[name]
        except TypeError:  # No text: as a dict has it, nothing is there.
            raise KeyError(name) from None

    def __setitem__(self, name: str, value: str) -> None:
        self._values[header_name(name)] = header_value(name, value)

    def __delitem__(self, name: str) -> None:
        del self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(canonical_name(name) for name in self._values))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def getall(self, name: str) -> list[str]:
        return self._values.getall(name, [])

    def add(self, name: str, value: str) -> None:
        self._values.add(header_name(name), header_value(name, value))

    def pairs(self) -> list[tuple[str, str]]:
        """Name and value, one pair a value, in order."""
        return list(self._values.items())


class Query(MutableMapping[str, str]):
    """Query parameters, decoded. Names are case-sensitive; a name may have several values.

    `query[name]` is the first value, KeyError where there is none; setting it replaces all values.
    """

    __slots__ = ()

    @abstractmethod
    def getall(self, name: str) -> list[str]:
        """All values of `name`, in order; an empty list where there is none."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({[(name, self.getall(name)) for name in self]})"


class ParsedQuery(Query):
    """Reads what a query string has. What edits mean is for the classes that derive from it."""

    __slots__ = ("_values",)

    def __init__(self, query: str) -> None:
        self._values: MultiDict[str] = MultiDict(parse_qsl(query, keep_blank_values=True))

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(self._values))

    def __len__(self) -> int:
        return len(set(self._values))

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def getall(self, name: str) -> list[str]:
        return self._values.getall(name, [])


@dataclass(frozen=True, slots=True)
class RawRequest:
    """An HTTP request that somebody recorded as text."""

    method: str
    #: As in the request line: a path with its query, or an absolute URL.
    target: str
    headers: MultiHeaders
    body: bytes


def parse_raw_request(raw: bytes) -> RawRequest:
    """Parse an HTTP/1.1 request as text. Raises BadMessage where it is none."""

    def refuse(what: str) -> NoReturn:
        raise BadMessage(f"not an HTTP request: {what}")

    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode("utf-8", "surrogateescape").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[0] or not words[2].startswith("HTTP/"):
        refuse("the first line should be METHOD TARGET HTTP/VERSION")
    pairs = []
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            refuse("a header line has no colon")
        pairs.append((name, value.strip(" \t")))
    return RawRequest(words[0], words[1], MultiHeaders.unchecked(pairs), body)
