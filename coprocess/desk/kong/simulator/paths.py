"""Paths as Kong normalizes, escapes and matches them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote_from_bytes

from coprocess.desk.kong.simulator.entities import Route

_RESERVED = frozenset(b"!*'();:@&=+$,/?%#[]")
_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")
_KEPT = "!\"#$&'()*+,/:;=?@[]-._~%"


def normalize(path: bytes) -> bytes:
    """Decoded but for reserved characters, without dot segments and double slashes."""
    decoded = _ESCAPED.sub(_decoded, path)
    return _without_dots(re.sub(rb"/{2,}", b"/", decoded))


def _decoded(found: re.Match[bytes]) -> bytes:
    byte = int(found[1], 16)
    return found[0].upper() if byte in _RESERVED else bytes([byte])


def _without_dots(path: bytes) -> bytes:
    kept: list[bytes] = []
    segments = path.split(b"/")
    for index, segment in enumerate(segments):
        is_last = index == len(segments) - 1
        if segment == b".":
            if is_last:
                kept.append(b"")
        elif segment == b"..":
            if len(kept) > 1:
                kept.pop()
            if is_last:
                kept.append(b"")
        else:
            kept.append(segment)
    return b"/".join(kept) or b"/"


def escape(path: bytes) -> bytes:
    return quote_from_bytes(path, safe=_KEPT).encode()


@dataclass(frozen=True, slots=True)
class Match:
    """The route of a request."""

    route: Route
    #: What `strip_path` takes away.
    prefix: bytes
    named: dict[bytes, bytes]
    unnamed: tuple[bytes, ...]


def find_route(
    routes: Iterable[Route], scheme: str, method: str, host: bytes, path: bytes, headers: dict[bytes, bytes]
) -> Match | None:
    """The best match: hosts, headers and methods before the longest path; a regex before a prefix."""
    best: tuple[tuple[int, int, int, int], Match] | None = None
    try:
        path.decode()
    except UnicodeDecodeError:
        # Kong's router gives up on it, with an error in its log.
        return None
    name = host.split(b":")[0].decode("latin-1").lower()
    for route in routes:
        if scheme not in route.protocols or (route.methods and method not in route.methods):
            continue
        if route.hosts and not any(_is_host(pattern, name) for pattern in route.hosts):
            continue
        if any(_header(headers, key) not in values for key, values in route.headers.items()):
            continue
        categories = sum(map(bool, (route.hosts, route.methods, route.headers, route.paths)))
        for pattern in route.paths or ("",):
            match = _match(route, pattern, path)
            if match is None:
                continue
            is_regex = pattern.startswith("~")
            priority = route.more.get("regex_priority", 0) if is_regex else 0
            rank = (categories, int(is_regex), priority, len(pattern))
            if best is None or rank > best[0]:
                best = rank, match
    return best[1] if best else None


def _is_host(pattern: str, name: str) -> bool:
    pattern = pattern.lower().split(":")[0]
    if pattern.startswith("*."):
        return name.endswith(pattern[1:])
    if pattern.endswith(".*"):
        return name.startswith(pattern[:-1])
    return name == pattern


def _match(route: Route, pattern: str, path: bytes) -> Match | None:
    if not pattern.startswith("~"):
        prefix = pattern.encode()
        return Match(route, prefix, {}, ()) if path.startswith(prefix) else None
    # Rust's and PCRE's way to name a group.
    found = re.match(re.sub(r"\(\?<(?![=!])", "(?P<", pattern[1:]).encode(), path)
    if found is None:
        return None
    named = {name.encode(): value for name, value in found.groupdict().items() if value is not None}
    unnamed = tuple(group if group is not None else b"" for group in (found[0], *found.groups()))
    return Match(route, found[0], named, unnamed if found.groups() else ())


def upstream_path(match: Match, path: bytes) -> bytes:
    """What the service is asked for, still without escapes."""
    rest = path[len(match.prefix) :] if match.route.strip_path else path
    base = (match.route.service.path if match.route.service else None) or "/"
    base_bytes = base.encode()
    if not rest:
        return base_bytes
    if base_bytes.endswith(b"/"):
        return base_bytes + rest.removeprefix(b"/")
    # v0: a service's path and what comes after it are one path.
    return base_bytes + (rest if rest.startswith(b"/") or not match.route.strip_path else b"/" + rest)


def _header(headers: dict[bytes, bytes], name: str) -> str:
    return headers.get(name.encode(), b"").decode("latin-1")
