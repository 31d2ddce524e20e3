"""Headers as Envoy keeps them: one list, names in lower case, pseudo-headers first.

Values have one character a byte. In a request, `host` is another name of `:authority`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from coprocess.gateways.envoy import wire

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z:-]*\Z")
_BAD_IN_VALUE = re.compile(r"[\0\r\n]")

#: Headers of which Envoy keeps one line: in both, in requests, in responses.
_SINGLE = frozenset(
    {"content-type", "content-length", "transfer-encoding", "connection", "upgrade", "via", "keep-alive"}
    | {"proxy-connection", "x-request-id", ":status", ":path", ":method", ":authority", ":scheme"}
    | {"cache-control", "content-encoding", "proxy-status"}
    | {"x-envoy-attempt-count", "x-envoy-decorator-operation"}
)
_SINGLE_IN_REQUESTS = _SINGLE | frozenset(
    {"te", "expect", "user-agent", "origin", "grpc-timeout", "x-forwarded-for", "x-forwarded-host"}
    | {"x-forwarded-proto", "x-forwarded-client-cert", "x-forwarded-port", "x-client-trace-id"}
    | {"accept", "accept-encoding", "authorization", "cdn-loop", "grpc-accept-encoding", "pragma", "referer"}
    | {f"access-control-request-{kind}" for kind in ("headers", "method", "private-network")}
    | {f"if-{kind}" for kind in ("match", "modified-since", "none-match", "range", "unmodified-since")}
    | {f"x-envoy-{kind}" for kind in ("original-path", "external-address", "original-host")}
    | {"x-envoy-downstream-service-cluster", "x-envoy-is-timeout-retry"}
)
_SINGLE_IN_RESPONSES = _SINGLE | frozenset(
    {"date", "server", "location", "grpc-status", "grpc-message", "age", "etag", "expires", "last-modified"}
    | {f"access-control-allow-{kind}" for kind in ("credentials", "headers", "methods", "origin")}
    | {"access-control-allow-private-network", "access-control-expose-headers", "access-control-max-age"}
    | {f"x-envoy-{kind}" for kind in ("immediate-health-check-fail", "ratelimited", "degraded")}
    | {f"x-envoy-upstream-{kind}" for kind in ("service-time", "canary", "healthchecked-cluster")}
    | {"vary"}
)


def is_valid_name(name: str) -> bool:
    """An empty name passes, as it does in Envoy."""
    return _NAME.match(name) is not None


def is_valid_value(value: str) -> bool:
    return _BAD_IN_VALUE.search(value) is None


class HeaderMap:
    """Setting moves a header to the end of its part: pseudo-headers or the rest."""

    def __init__(self, pairs: Iterable[tuple[str, str]] = (), *, is_request: bool = False) -> None:
        self._is_request = is_request
        self._pseudo: list[tuple[str, str]] = []
        self._rest: list[tuple[str, str]] = []
        for name, value in pairs:
            self.add(name, value)

    def copy(self) -> HeaderMap:
        return HeaderMap(self, is_request=self._is_request)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        yield from self._pseudo
        yield from self._rest

    def __len__(self) -> int:
        return len(self._pseudo) + len(self._rest)

    @property
    def size_bytes(self) -> int:
        return sum(len(name) + len(value) for name, value in self)

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def get(self, name: str) -> str | None:
        """The first value."""
        name = self._known(name)
        return next((value for key, value in self._part(name) if key == name), None)

    def values(self, name: str) -> list[str]:
        name = self._known(name)
        return [value for key, value in self._part(name) if key == name]

    def add(self, name: str, value: str) -> None:
        """A further value, or joined to the one that is there, where Envoy keeps one line."""
        name = self._known(name)
        single = _SINGLE_IN_REQUESTS if self._is_request else _SINGLE_IN_RESPONSES
        if name in single and name in self:
            self.join(name, value)
        else:
            self._part(name).append((name, value))

    def set(self, name: str, value: str) -> None:
        """Replace all values by one at the end."""
        self.remove(name)
        self.add(name, value)

    def set_in_place(self, name: str, value: str) -> None:
        """Replace all values by one where the first was, or at the end."""
        name = self._known(name)
        part = self._part(name)
        index = next((index for index, (key, _) in enumerate(part) if key == name), None)
        if index is None:
            part.append((name, value))
        else:
            part[index] = (name, value)
            part[index + 1 :] = [pair for pair in part[index + 1 :] if pair[0] != name]

    def join(self, name: str, value: str) -> None:
        """Append `,value` to the first value (`; value` to a cookie's); it alone where that is empty.

        Nothing where there is none, and for an empty one.
        """
        name = self._known(name)
        if not value:
            return
        part = self._part(name)
        delimiter = "; " if name == "cookie" else ","
        for index, (key, old) in enumerate(part):
            if key == name:
                part[index] = (name, f"{old}{delimiter}{value}" if old else value)
                return

    def remove(self, name: str) -> None:
        name = self._known(name)
        part = self._part(name)
        part[:] = [pair for pair in part if pair[0] != name]

    def regular(self) -> list[tuple[str, str]]:
        """Without pseudo-headers."""
        return list(self._rest)

    def to_wire(self, forwards: ForwardRules | None = None) -> wire.HeaderMap:
        """As messages have them, in `raw_value`."""
        return wire.HeaderMap(
            headers=[
                wire.HeaderValue(key=name, raw_value=value.encode("latin-1"))
                for name, value in self
                if forwards is None or forwards.allows(name)
            ]
        )

    def _known(self, name: str) -> str:
        name = name.lower()
        return ":authority" if name == "host" and self._is_request else name

    def _part(self, name: str) -> list[tuple[str, str]]:
        return self._pseudo if name.startswith(":") else self._rest


@dataclass(frozen=True, slots=True)
class StringMatcher:
    """Envoy's StringMatcher. `kind` is `exact`, `prefix`, `suffix`, `contains` or `safe_regex`."""

    kind: str
    pattern: str
    ignore_case: bool = False

    def matches(self, text: str) -> bool:
        if self.kind == "safe_regex":
            return re.fullmatch(self.pattern, text) is not None
        pattern = self.pattern
        if self.ignore_case:
            text, pattern = text.lower(), pattern.lower()
        if self.kind == "exact":
            return text == pattern
        if self.kind == "prefix":
            return text.startswith(pattern)
        return text.endswith(pattern) if self.kind == "suffix" else pattern in text


@dataclass(frozen=True, slots=True)
class ForwardRules:
    """Which headers a server is sent: those that are allowed, where any are named, and not disallowed."""

    allowed: tuple[StringMatcher, ...] = ()
    disallowed: tuple[StringMatcher, ...] = ()

    def allows(self, name: str) -> bool:
        if any(matcher.matches(name) for matcher in self.disallowed):
            return False
        return not self.allowed or any(matcher.matches(name) for matcher in self.allowed)
