"""Recordings of a real gateway, played again: each part must come out as it was recorded."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from coprocess.desk.json_files import read_json
from coprocess.desk.replay import NO_RECORDING, ReplayReport, in_words
from coprocess.desk.tyk.simulator.compare import differing, header_differences, object_differences
from coprocess.desk.tyk.simulator.definition import ApiDefinition
from coprocess.desk.tyk.simulator.exchange import Exchange, RpcError
from coprocess.desk.tyk.simulator.gateway import Gateway
from coprocess.desk.tyk.simulator.headers import to_wire
from coprocess.desk.tyk.simulator.session import GatewayState
from coprocess.desk.upstreams import UpstreamReply, UpstreamRequest
from coprocess.gateways.tyk import wire

_HOST = "127.0.0.1:8081"
_NO_RECORDING = (*NO_RECORDING, DecodeError)
_GO_TIME = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(\.\d{1,9})? \+0000 UTC\Z")


class _Recording:
    """One file. Reading what is not as recordings are raises ValueError, KeyError or TypeError."""

    def __init__(self, path: Path) -> None:
        content = read_json(path)
        self.name: str = content["name"]
        self.follows: str | None = content["follows"]
        self.api: str = content["api"]
        self.request: dict[str, Any] = content["http_request"]
        self.dispatches: list[dict[str, Any]] = content["dispatches"]
        self.events: list[dict[str, Any]] = content["events"]
        self.upstream_request: dict[str, Any] | None = content["upstream_request"]
        self.upstream_reply: dict[str, Any] | None = content["upstream_reply"]
        self.response: dict[str, Any] = content["http_response"]
        self.objects = [wire.Object.FromString(_bytes(call["object"])) for call in self.dispatches]

    @property
    def host(self) -> str:
        """The recording gateway's address."""
        return next((sent.request.headers["Host"] for sent in self.objects), _HOST)

    @property
    def now(self) -> float:
        """The gateway's clock: an event's time where there is one, else the answer's `Date`."""
        for event in self.events:
            match = _GO_TIME.match(event.get("message", {}).get("TimeStamp", ""))
            if match:
                return datetime.fromisoformat(match[1]).replace(tzinfo=UTC).timestamp() + float(match[2] or 0)
        for name, value in self.response.get("headers") or ():
            if name == "Date":
                return parsedate_to_datetime(value).timestamp()
        return 0.0

    def upstream_headers(self) -> tuple[tuple[str, str], ...]:
        """Of the reply, the values of one name in the order that the first Response hook saw.

        Recordings hold sorted pairs; only Objects tell the order.
        """
        headers = _pairs(self.upstream_reply["headers"]) if self.upstream_reply else []
        responses = [sent.response for sent in self.objects if sent.HasField("response")]
        for header in responses[0].multivalue_headers if responses else ():
            values = [to_wire(value) for value in header.values]
            recorded = [value for name, value in headers if name.lower() == header.key.lower()]
            if len(values) > 1 and sorted(values) == sorted(recorded):
                headers = [pair for pair in headers if pair[0].lower() != header.key.lower()]
                headers += [(header.key, value) for value in values]
        return tuple(headers)

    def request_headers(self) -> list[tuple[str, str]]:
        """With the framing of an empty body, which recordings do not hold but in the Objects."""
        headers = _pairs(self.request["headers"])
        named = {name.lower() for name, _ in headers}
        framed = self.objects and self.objects[0].request.headers.get("Content-Length") == "0"
        if framed and not self.request["body"] and "content-length" not in named:
            headers.append(("Content-Length", "0"))
        return headers


class _ScriptedDispatcher:
    """Gives the recorded replies, in their order."""

    def __init__(self, recording: _Recording) -> None:
        self._calls = iter(recording.dispatches)

    def dispatch(self, serialized_object: bytes, /) -> bytes:
        call = next(self._calls, None)
        if call is None:
            raise RpcError("UNAVAILABLE", "the recording has no further Dispatch")
        if call["reply"] is None:
            raise RpcError(call["status"])
        return _bytes(call["reply"])

    def dispatch_event(self, payload_json: str, /) -> None:
        json.loads(payload_json)


def replay(recordings: Iterable[Path | str], apis_dir: Path | str) -> ReplayReport:
    """Play each recording, after those that it follows, against a fresh gateway.

    `Date`, an event's `TimeStamp` and the gateway's own address are the recording's; the end of a
    quota, in seconds, may be two off. Everything else must be the same. What cannot be read, and a
    `follows` that is not among `recordings`, is reported as a difference is.
    """
    problems: list[str] = []
    known: dict[str, _Recording] = {}
    for path in map(Path, recordings):
        try:
            recording = _Recording(path)
        except _NO_RECORDING as error:
            problems.append(f"{path.name}: not a recording: {in_words(error, path)}")
            continue
        if recording.name in known:
            problems.append(f"{path.name}: a second recording named {recording.name}")
        known[recording.name] = recording
    replayed = []
    for name, recording in known.items():
        try:
            problems += [
                f"{name}: {text}" for text in _replay_chain(_chain(recording, known), Path(apis_dir))
            ]
        except _NO_RECORDING as error:
            problems.append(f"{name}: cannot be replayed: {in_words(error)}")
            continue
        replayed.append(name)
    return ReplayReport(tuple(replayed), tuple(problems))


def _chain(recording: _Recording, known: dict[str, _Recording]) -> list[_Recording]:
    chain = [recording]
    while chain[0].follows is not None:
        before = known.get(chain[0].follows)
        if before is None:
            raise ValueError(f"{chain[0].name} follows {chain[0].follows}, which is missing")
        if before in chain:
            raise ValueError(f"{before.name} follows itself")
        chain.insert(0, before)
    return chain


def _replay_chain(chain: list[_Recording], apis_dir: Path) -> Iterator[str]:
    """The differences of the last; the others are reported where they are the last."""
    state = GatewayState()
    for recording in chain[:-1]:
        _play(recording, apis_dir, state)
    yield from _differences(chain[-1], _play(chain[-1], apis_dir, state))


def _play(recording: _Recording, apis_dir: Path, state: GatewayState) -> Exchange:
    reply = recording.upstream_reply

    def upstream(_: UpstreamRequest) -> UpstreamReply:
        if reply is None:
            raise ConnectionRefusedError("the recording has no upstream reply")
        return UpstreamReply(reply["status"], recording.upstream_headers(), _bytes(reply["body"]))

    gateway = Gateway(
        ApiDefinition.load(apis_dir / f"{recording.api}.json"),
        _ScriptedDispatcher(recording),
        upstream,
        host=recording.host,
        clock=lambda: recording.now,
        state=state,
    )
    request = recording.request
    return gateway.request(
        request["method"], request["target"], recording.request_headers(), _bytes(request["body"])
    )


def _differences(recording: _Recording, exchange: Exchange) -> Iterator[str]:
    yield from _dispatch_differences(recording, exchange)
    yield from _event_differences(recording.events, exchange.events)
    yield from _upstream_differences(recording, exchange)
    yield from _response_differences(recording.response, exchange)


def _dispatch_differences(recording: _Recording, exchange: Exchange) -> Iterator[str]:
    recorded, made = recording.dispatches, exchange.hooks
    if len(recorded) != len(made):
        names = [call["hook_name"] for call in recorded], [call.hook_name for call in made]
        yield f"dispatches: expected {names[0]}, got {names[1]}"
    for index, (call, sent, hook) in enumerate(zip(recorded, recording.objects, made, strict=False)):
        part = f"dispatch {index} ({call['hook_name']})"
        if (call["status"] == "OK") != (call["reply"] is not None):
            yield f"{part}: status {call['status']} does not go with its reply"
        told = (call["hook_type"], call["hook_name"])
        if told != (hook.object.hook_type, hook.object.hook_name):
            yield f"{part}: expected {told}, got {(hook.object.hook_type, hook.object.hook_name)}"
        for text in object_differences(sent, hook.object):
            yield f"{part}: object {text}"


def _event_differences(recorded: list[dict[str, Any]], made: list[dict[str, Any]]) -> Iterator[str]:
    if len(recorded) != len(made):
        types = [event.get("message", {}).get("Type") for event in recorded]
        yield f"events: expected {types}, got {[event['message']['Type'] for event in made]}"
    for index, (one, other) in enumerate(zip(recorded, made, strict=False)):
        stamps = [event.get("message", {}).get("TimeStamp", "") for event in (one, other)]
        for stamp in stamps:
            if not _GO_TIME.match(str(stamp)):
                yield f"event {index}: TimeStamp {stamp!r} is no time as the gateway writes it"
        for text in differing(_readable(one), _readable(other)):
            yield f"event {index}: {text}"


def _readable(event: dict[str, Any]) -> dict[str, Any]:
    """Without the time, and with the original request as bytes."""
    message = {key: value for key, value in event.get("message", {}).items() if key != "TimeStamp"}
    meta = dict(message.get("Meta", {}))
    if "OriginatingRequest" in meta:
        meta["OriginatingRequest"] = _bytes(meta["OriginatingRequest"])
    return {**event, "message": {**message, "Meta": meta}}


def _upstream_differences(recording: _Recording, exchange: Exchange) -> Iterator[str]:
    recorded, made = recording.upstream_request, exchange.upstream_request
    if recorded is None or made is None:
        if (recorded is None) != (made is None):
            yield f"upstream request: expected {recorded}, got {made}"
        return
    for name, one, other in (
        ("method", recorded["method"], made.method),
        ("url", recorded["url"], made.url),
        ("body", _bytes(recorded["body"]), made.body),
    ):
        if one != other:
            yield f"upstream request: {name}: expected {one!r}, got {other!r}"
    for text in header_differences(_pairs(recorded["headers"]), list(made.headers)):
        yield f"upstream request: {text}"


def _response_differences(recorded: dict[str, Any], exchange: Exchange) -> Iterator[str]:
    made = exchange.http_response
    if recorded["status"] is None or made is None:
        if recorded["status"] is not None:
            yield f"http response: expected status {recorded['status']}, got none: {exchange.dropped}"
        elif made is not None:
            yield f"http response: expected a dropped connection, got status {made.status}"
        return
    if recorded["status"] != made.status:
        yield f"http response: status: expected {recorded['status']}, got {made.status}"
    for text in header_differences(_pairs(recorded["headers"]), list(made.headers), ignore=("Date",)):
        yield f"http response: {text}"
    if _bytes(recorded["body"]) != made.body:
        yield f"http response: body: expected {_bytes(recorded['body'])!r}, got {made.body!r}"


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _pairs(headers: list[list[str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers]
