"""Recordings of a real Kong and a plugin server: exchanges, frames, what reached the service."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coprocess.desk.kong.simulator.dump import PluginInfo, plugin_info
from coprocess.desk.kong.simulator.http import Headers
from coprocess.errors import ConfigError

_ELIDED = re.compile(r"… (\d+) frames alike left out …")


@dataclass(frozen=True, slots=True)
class Cut:
    """A long value of which a recording holds the beginning only."""

    #: How many bytes it may have had.
    sizes: tuple[int, ...]
    head: bytes

    def __repr__(self) -> str:
        return f"{self.sizes[0]} bytes"

    def fits(self, data: bytes) -> bool:
        return len(data) in self.sizes and data.startswith(self.head)

    def rebuilt(self, known_sizes: set[int]) -> bytes:
        """The beginning, repeated: recordings cut long values of one pattern only."""
        size = next((each for each in self.sizes if each in known_sizes), self.sizes[0])
        period = next(
            length
            for length in range(1, len(self.head) + 1)
            if (self.head[:length] * (len(self.head) // length + 1)).startswith(self.head)
        )
        return (self.head[:period] * (size // period + 1))[:size]


@dataclass(slots=True)
class Frame:
    """One value on a connection, or an event of it."""

    at: float
    plugin: str
    connection: int
    from_kong: bool
    #: "frame", "connect", "eof", "unfinished", "lost" (nobody listens) or "elided".
    kind: str
    #: The bytes; None for a value that is cut.
    raw: bytes | None = None
    message: Any = None
    #: Of "elided": how many.
    count: int = 0


@dataclass(slots=True)
class Exchange:
    """One request, or more on one connection, and what the client got."""

    request: bytes
    step: str | None
    response: dict[str, Any] | None
    sni: str | None
    is_stream: bool
    #: An entry that is no request, but something that was done to Kong.
    is_action: bool
    raw: dict[str, Any] = field(default_factory=dict)

    def was_answered_within(self, limit_s: float) -> bool:
        """Whether the client got its answer, and in less time. False where the recording does not tell."""
        took = self.raw.get("took")
        return bool(self.response) and isinstance(took, int | float) and took < limit_s


@dataclass(slots=True)
class Recording:
    """One file."""

    name: str
    plugins: dict[str, PluginInfo]
    declarative: dict[str, Any]
    exchanges: list[Exchange]
    frames: list[Frame]
    upstream: list[dict[str, Any]]
    log: list[str]
    content: dict[str, Any]

    @property
    def sizes(self) -> set[int]:
        """The lengths of bodies that it tells of."""
        found = set()
        for exchange in self.exchanges:
            for line in re.findall(rb"(?i)content-length: (\d+)", exchange.request):
                found.add(int(line))
            for name, value in (exchange.response or {}).get("headers") or ():
                if name.lower() == "content-length" and value.isdigit():
                    found.add(int(value))
        return found


def read_content(path: Path) -> dict[str, Any]:
    """A recording's JSON. Raises ConfigError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("name"), str):
        raise ConfigError(f"{path}: not a recording: it has no name")
    return content


def recording_of(content: dict[str, Any]) -> Recording:
    """Raises KeyError, TypeError, ValueError, ConfigError for what has another form."""
    infos = {name: _plugin(name, entry) for name, entry in content["plugins"].items()}
    return Recording(
        content["name"],
        infos,
        content["declarative"],
        [_exchange(entry) for entry in content["exchanges"]],
        list(_frames(content["frames"])),
        content["upstream"],
        content["log"],
        content,
    )


def _plugin(name: str, entry: dict[str, Any]) -> PluginInfo:
    info = plugin_info(entry["dump"])
    if info.name != name:
        raise ConfigError(f"plugin {name!r} says in its dump that it is {info.name!r}")
    return info


def _exchange(entry: dict[str, Any]) -> Exchange:
    response = entry.get("response")
    request = entry.get("request_b64")
    return Exchange(
        b"" if request is None else request_bytes(entry),
        entry.get("step"),
        response if response is None or "headers" in response else {},
        entry.get("tls_sni"),
        bool(entry.get("stream")),
        request is None,
        entry,
    )


_REBUILD = re.compile(r"body = (.+) \* (\d+)\Z", re.DOTALL)


def request_bytes(entry: dict[str, Any]) -> bytes:
    """As the client sent it; a long body is made anew."""
    encoded = entry["request_b64"]
    if isinstance(encoded, str):
        return base64.b64decode(encoded, validate=True)
    found = _REBUILD.match(encoded.get("rebuild", ""))
    if not found:
        raise ValueError(f"a request that is cut, and no way to make it anew: {encoded}")
    head = entry["request_text"].partition("\r\n\r\n")[0].encode("latin-1")
    return bytes(head) + b"\r\n\r\n" + found[1].encode() * int(found[2])


def _frames(entries: list[dict[str, Any]]) -> Iterator[Frame]:
    for entry in entries:
        if found := _ELIDED.match(entry.get("event", "")):
            yield Frame(0.0, "", 0, False, "elided", count=int(found[1]))
            continue
        frame = Frame(entry["t"], entry["name"], entry["conn"], _is_from_kong(entry["dir"]), "frame")
        if "event" in entry:
            frame.kind = _kind(entry["event"])
        else:
            raw = entry["raw"]
            frame.raw = base64.b64decode(raw, validate=True) if isinstance(raw, str) else None
            frame.message = entry.get("msg")
        yield frame


def _is_from_kong(direction: str) -> bool:
    if direction not in ("kong>py", "py>kong"):
        raise ValueError(f"dir {direction!r} is neither 'kong>py' nor 'py>kong'")
    return direction == "kong>py"


def _kind(event: str) -> str:
    if event in ("connect", "eof", "unfinished"):
        return event
    if event.startswith(("target", "error")):
        return "lost"
    raise ValueError(f"event {event!r} is none that is known")


def decoded(value: Any) -> Any:
    """A message of a recording: text as `str` with surrogates, bin as `bytes`, long values as Cut."""
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1 or set(value) <= {"$cut", "head"} or set(value) <= {"$cut_b64", "head"}:
        if "$str" in value and len(value) == 1:
            return base64.b64decode(value["$str"]).decode("utf-8", "surrogateescape")
        if "$bin" in value and len(value) == 1:
            inner = value["$bin"]
            return base64.b64decode(inner) if isinstance(inner, str) else _cut(inner)
        if "$map" in value and len(value) == 1:
            return {_key(decoded(key)): decoded(item) for key, item in value["$map"]}
        if "$cut" in value or "$cut_b64" in value:
            return _cut(value)
    return {key: decoded(item) for key, item in value.items()}


def _key(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _cut(value: dict[str, Any]) -> Cut:
    head = value.get("head", "")
    if "$cut" in value:
        return Cut((int(value["$cut"]),), head.encode("utf-8", "surrogateescape"))
    size = int(value["$cut_b64"]) // 4 * 3
    return Cut((size, size - 1, size - 2), base64.b64decode(head[: len(head) // 4 * 4]))


def cut_of(value: Any) -> Cut | None:
    """Of a body, where the recording cuts it."""
    return _cut(value) if isinstance(value, dict) else None


def responses_of(exchange: Exchange, count: int) -> list[tuple[str, Headers, bytes | Cut]]:
    """What the client got, one after the other: status line, headers, body."""
    response = exchange.response
    if not response:
        return []
    headers = Headers(
        (name.encode("latin-1"), value.encode("latin-1")) for name, value in response["headers"]
    )
    body: bytes | Cut
    if (cut := cut_of(response["body_b64"])) is not None:
        return [(response["status_line"], headers, cut)]
    body = base64.b64decode(response["body_b64"])
    found: list[tuple[str, Headers, bytes | Cut]] = [(response["status_line"], headers, body)]
    while len(found) < count:
        line, headers, rest = found.pop()
        assert isinstance(rest, bytes)  # noqa: S101 - only a first body may be cut
        length = int(headers.get(b"content-length") or 0)
        found.append((line, headers, rest[:length]))
        rest = rest[length:]
        if not rest:
            break
        head, _, rest = rest.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        pairs = (line.partition(b":") for line in lines[1:])
        found.append(
            (lines[0].decode("latin-1"), Headers((name, value.strip()) for name, _, value in pairs), rest)
        )
    return found
