"""One recording of a real Envoy, read."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from coprocess.desk.envoy.simulator.bodies import body_of, is_digest, text_body_of
from coprocess.desk.envoy.simulator.config import EnvoyConfig
from coprocess.desk.envoy.simulator.exchange import HttpRequest, UpstreamReply
from coprocess.desk.envoy.simulator.frames import split_frames
from coprocess.desk.json_files import read_json
from coprocess.gateways.envoy import wire

_VERSION = re.compile(r"/(\d+)\.(\d+)\.\d+")
_KEYS = frozenset(
    {"name", "about", "envoy_version", "envoy", "http_request", "streams", "upstream_request"}
    | {"upstream_reply", "http_response", "access_log", "stats"}
)
_REQUEST_KEYS = frozenset({"method", "target", "headers", "body", "chunks", "trailers", "grpc"})
_REPLY_KEYS = frozenset({"status", "headers", "body", "chunks", "trailers"})
_MESSAGE_KEYS = frozenset({"from", "ms", "json", "raw", "event", "status", "message", "details"})
_SERVICES: dict[str, tuple[type[Message], type[Message]]] = {
    "ext_proc": (wire.ProcessingRequest, wire.ProcessingResponse),
    "ext_authz": (wire.CheckRequest, wire.CheckResponse),
}
#: What a gRPC client's library writes itself, in its order; the recorder's, where no message has them.
_GRPC_CLIENT = {
    "content-type": "application/grpc",
    "te": "trailers",
    "grpc-accept-encoding": "identity, deflate, gzip",
    "grpc-timeout": "8S",
    "user-agent": "grpc-python-asyncio/1.85.1 grpc-c/58.0.0 (linux; chttp2)",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One message of a stream, or an event of it."""

    is_envoys: bool
    ms: float
    #: As protobuf's JSON; None for events and for what is no message.
    json: dict[str, Any] | None
    #: Serialized; None for events.
    raw: bytes | None
    #: `half_close`, `cancelled`, or empty.
    event: str = ""
    #: The RPC's status, by name, where this is its end.
    status: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Stream:
    """One RPC."""

    service: str
    initial_metadata: tuple[tuple[str, str], ...]
    entries: tuple[Entry, ...]

    @property
    def sent(self) -> list[Entry]:
        """Envoy's messages."""
        return [entry for entry in self.entries if entry.is_envoys and not entry.event]


class Recording:
    """One file. What is not as recordings are raises ValueError, KeyError, TypeError or ConfigError."""

    def __init__(self, path: Path) -> None:
        content = read_json(path)
        _known(content, _KEYS, "recording")
        self.name: str = content["name"]
        self.version = _version(content["envoy_version"])
        self.config = EnvoyConfig.read(content["envoy"], version=self.version)
        self.http_request: dict[str, Any] = content["http_request"]
        self.streams = [_stream(value, index) for index, value in enumerate(content["streams"])]
        self.upstream_request: dict[str, Any] | None = content["upstream_request"]
        self.upstream_reply: dict[str, Any] | None = content["upstream_reply"]
        self.http_response: dict[str, Any] = content["http_response"]
        self.access_log: list[dict[str, Any]] = content.get("access_log") or []
        _known(self.http_request, _REQUEST_KEYS, "http_request")
        if self.upstream_reply is not None:
            _known(self.upstream_reply, _REPLY_KEYS, "upstream_reply")

    @property
    def is_grpc(self) -> bool:
        return "grpc" in self.http_request

    def request(self) -> HttpRequest:
        given = self.http_request
        if self.is_grpc:
            return self._grpc_request(given["grpc"])
        frames: list[bytes] = []
        if any(name.lower() == "upgrade" for name, _ in given["headers"]) and self.upstream_request:
            frames = self._frames(body_of(self.upstream_request["body"]))
        return HttpRequest(
            given["method"],
            given["target"],
            _pairs(given["headers"]),
            body_of(given["body"]),
            _chunks(given),
            _pairs(given.get("trailers") or []),
            frames=tuple(frames),
            leaves_after_s=self.http_response.get("left_after_s"),
        )

    def _grpc_request(self, given: dict[str, Any]) -> HttpRequest:
        told = self._told_headers()
        client = {name: told.get(name, value) for name, value in _GRPC_CLIENT.items()}
        message = body_of(given["message"])
        return HttpRequest(
            "POST",
            given["method"],
            (("host", told.get(":authority", "example.test")), *client.items(), *_pairs(given["metadata"])),
            b"\0" + len(message).to_bytes(4, "big") + message,
            is_http2=True,
        )

    def _told_headers(self) -> dict[str, str]:
        """Of the request, as the first message has them."""
        for stream in self.streams:
            for entry in stream.sent:
                content = entry.json or {}
                if stream.service == "ext_authz":
                    headers = (
                        content.get("attributes", {}).get("request", {}).get("http", {}).get("headers", {})
                    )
                    return dict(headers)
                if "request_headers" in content:
                    return _header_values(content["request_headers"]["headers"]["headers"])
        return {}

    def _frames(self, received: bytes) -> list[bytes]:
        """What the client sent after the upgrade: as the first server was sent it, else as it arrived."""
        for stream in self.streams:
            told = [
                body_of(entry.json["request_body"].get("body"))
                for entry in stream.sent
                if entry.json and "request_body" in entry.json
            ]
            if told:
                return told
        return split_frames(received)

    def reply(self) -> UpstreamReply | None:
        if self.is_grpc:
            return None if self.upstream_request is None else _grpc_reply(self.upstream_request)
        given = self.upstream_reply
        if given is None:
            return None
        if given["status"] == 101:
            return self._upgrade_reply()
        return UpstreamReply(
            given["status"],
            _pairs(given["headers"]),
            body_of(given["body"]),
            _chunks(given),
            _pairs(given.get("trailers") or []),
        )

    def _upgrade_reply(self) -> UpstreamReply:
        """The recorder's upstream answers each frame with `echo:` and the frame; its headers are not kept."""
        headers = [
            (name, value)
            for name, value in _pairs(self.http_response["headers"])
            if name not in ("date", "server")
        ]
        asked = body_of(self.upstream_request["body"]) if self.upstream_request else b""
        return UpstreamReply(
            101, tuple(headers), frames=tuple(b"echo:" + frame for frame in split_frames(asked))
        )

    def partial_body_bytes(self) -> int | None:
        """How much of a body BUFFERED_PARTIAL sent: in Envoy that is chance."""
        for stream in self.streams:
            for entry in stream.sent:
                for part in ("request_body", "response_body"):
                    body = (entry.json or {}).get(part, {}).get("body")
                    if isinstance(body, str):
                        return len(body_of(body))
        return None


def _grpc_reply(asked: dict[str, Any]) -> UpstreamReply:
    """The recorder's upstream: it says `pong:` and what it was told."""
    message = b"pong:" + body_of(asked["grpc"]["message"])
    return UpstreamReply(
        200,
        (
            ("content-type", "application/grpc"),
            ("grpc-accept-encoding", "identity, deflate, gzip"),
            ("x-up", "1"),
        ),
        b"\0" + len(message).to_bytes(4, "big") + message,
        trailers=(("grpc-status", "0"), ("grpc-message", ""), ("x-trailer", "t")),
    )


def _stream(value: dict[str, Any], index: int) -> Stream:
    where = f"streams[{index}]"
    _known(value, frozenset({"service", "initial_metadata", "messages"}), where)
    service = value["service"]
    if service not in _SERVICES:
        raise ValueError(f"{where}: the service {service!r} is not known: expected ext_proc or ext_authz")
    entries = [
        _entry(message, service, f"{where}.messages[{number}]")
        for number, message in enumerate(value["messages"])
    ]
    return Stream(service, _pairs(value["initial_metadata"]), tuple(entries))


def _entry(value: dict[str, Any], service: str, where: str) -> Entry:
    _known(value, _MESSAGE_KEYS, where)
    is_envoys = {"envoy": True, "server": False}[value["from"]]
    ms = float(value["ms"])
    if "event" in value:
        return Entry(is_envoys, ms, None, None, event=value["event"])
    if "status" in value:
        return Entry(is_envoys, ms, None, None, status=value["status"], message=value.get("message") or "")
    content, raw = value.get("json"), value.get("raw")
    kind = _SERVICES[service][0 if is_envoys else 1]
    if isinstance(raw, str):
        payload = base64.b64decode(raw, validate=True)
        if content is None:
            return Entry(is_envoys, ms, None, payload)
        message = kind()
        if content or not payload:
            message = kind.FromString(payload)
            _without_unknown(message, where)
        parsed = message if content or not payload else None
        return Entry(is_envoys, ms, None if parsed is None else as_json(parsed), payload)
    if content is None:
        raise ValueError(f"{where}: expected json, event or status")
    if is_envoys:
        return Entry(is_envoys, ms, content, None)
    return Entry(
        is_envoys, ms, content, json_format.ParseDict(_restored(content), kind()).SerializeToString()
    )


def _without_unknown(message: Message, where: str) -> None:
    size = message.ByteSize()
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    if known.ByteSize() != size:
        raise ValueError(f"{where}: the message has fields that are not known here")


def _restored(value: Any) -> Any:
    if is_digest(value):
        return base64.b64encode(text_body_of(value)).decode()
    if isinstance(value, dict):
        return {key: _restored(item) for key, item in value.items()}
    return [_restored(item) for item in value] if isinstance(value, list) else value


def as_json(message: Message) -> dict[str, Any]:
    """As recordings have messages."""
    content: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return content


def _header_values(headers: list[dict[str, Any]]) -> dict[str, str]:
    return {header["key"]: body_of(header.get("raw_value")).decode("latin-1") for header in headers}


def _known(value: dict[str, Any], names: frozenset[str], where: str) -> None:
    unknown = sorted(set(value) - names)
    if unknown:
        raise ValueError(f"{where}: {', '.join(unknown)}: not known here")


def _version(text: str) -> tuple[int, int]:
    match = _VERSION.search(text)
    if match is None:
        raise ValueError(f"envoy_version {text!r}: expected …/1.40.0/…")
    return int(match[1]), int(match[2])


def _chunks(given: dict[str, Any]) -> tuple[bytes, ...]:
    return tuple(body_of(chunk) for chunk in given.get("chunks") or [])


def _pairs(headers: list[list[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in headers)
