"""Headers as Go's `net/http` keeps and writes them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from coprocess.api.http import canonical_name

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

#: Headers that end at the gateway, in both directions.
_HOP_BY_HOP = (
    "Connection",
    "Proxy-Connection",
    "Keep-Alive",
    "Proxy-Authenticate",
    "Proxy-Authorization",
    "Te",
    "Trailer",
    "Trailers",
    "Transfer-Encoding",
    "Upgrade",
)


def from_wire(text: str) -> str:
    """One character a byte → text. Bytes that are not UTF-8 become surrogates, so that nothing is lost."""
    try:
        raw = text.encode("latin-1")
    except UnicodeEncodeError:
        raw = text.encode("utf-8", "surrogateescape")
    return raw.decode("utf-8", "surrogateescape")


def to_wire(text: str) -> str:
    """The inverse of `from_wire`."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


class GoHeader:
    """Go's `http.Header`: canonical names, each with all its values."""

    __slots__ = ("_values",)

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self.add(name, value)

    @classmethod
    def received(cls, pairs: Iterable[tuple[str, str]]) -> GoHeader:
        """From names and values as a client or an upstream sent them."""
        return cls((name, from_wire(value).strip(" \t")) for name, value in pairs)

    def __contains__(self, name: str) -> bool:
        return canonical_name(name) in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def get(self, name: str) -> str:
        """The first value; empty where there is none, as in Go."""
        values = self._values.get(canonical_name(name))
        return values[0] if values else ""

    def getall(self, name: str) -> list[str]:
        return list(self._values.get(canonical_name(name), ()))

    def add(self, name: str, value: str) -> None:
        self._values.setdefault(canonical_name(name), []).append(value)

    def set(self, name: str, *values: str) -> None:
        self._values[canonical_name(name)] = list(values)

    def remove(self, name: str) -> None:
        self._values.pop(canonical_name(name), None)

    def clear(self) -> None:
        self._values.clear()

    def copy(self) -> GoHeader:
        twin = GoHeader()
        twin._values = {name: list(values) for name, values in self._values.items()}
        return twin

    def first_values(self) -> dict[str, str]:
        """What fits in the protocol's `headers` map."""
        return {name: values[0] for name, values in self._values.items() if values}

    def remove_hop_by_hop(self) -> None:
        """Also those that `Connection` names."""
        for listed in self.get("Connection").split(","):
            if listed.strip():
                self.remove(listed.strip())
        for name in _HOP_BY_HOP:
            self.remove(name)

    def sendable(self) -> bool:
        """Whether Go's HTTP client would send these."""
        return all(
            _TOKEN.match(name) and not any(_CONTROL.search(value) for value in values)
            for name, values in self._values.items()
        )

    def written(self, *, without: tuple[str, ...] = ()) -> list[tuple[str, str]]:
        """As Go writes them: sorted by name, line breaks made spaces, impossible names left out."""
        return [
            (name, to_wire(value.replace("\n", " ").replace("\r", " ").strip(" \t\n\r")))
            for name in sorted(self._values)
            if _TOKEN.match(name) and name not in without
            for value in self._values[name]
        ]
