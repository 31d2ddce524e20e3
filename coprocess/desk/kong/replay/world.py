"""What a recording tells of its Kong's surroundings: ports, ids, the service behind it."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from typing import Any

from coprocess.desk.kong.replay.recording import Recording, decoded
from coprocess.desk.kong.simulator.exchange import Exchange as KongExchange
from coprocess.desk.kong.simulator.exchange import Facts, NotSimulated
from coprocess.desk.kong.simulator.http import Headers, UpstreamReply, UpstreamRequest
from coprocess.desk.kong.simulator.lua import from_wire, type_name
from coprocess.desk.kong.simulator.pdk import METHODS
from coprocess.desk.kong.simulator.pdk.around import variables

#: Calls whose answer only that Kong knows: the recorded one is taken, its type alone is compared.
_TOLD = (
    *("request.get_start_time", "nginx.req_start_time", "client.get_port", "client.get_forwarded_port"),
    *("node.get_id", "node.get_hostname", "node.get_memory_stats", "nginx.get_statistics", "vault.get"),
    *("nginx.get_var",),
)
_OWN_VARIABLES = frozenset({"remote_port", "hostname", "server_addr", "server_port"})
_SET_UPSTREAM = "kong.service.set_upstream"
_BODY = b'{"hello":"upstream"}\n'


def facts_of(recording: Recording) -> Facts:
    ids = _request_ids(recording)
    facts = Facts(new_request_id=lambda: next(ids, b"0" * 32))
    answers = _answers(recording)
    for name in _TOLD:
        facts.told[f"kong.{name}"] = _teller(f"kong.{name}", answers)
    for call, data in answers_in_order(recording):
        if call in ("kong.request.get_port", "kong.request.get_forwarded_port") and isinstance(data, int):
            facts.http_port = facts.https_port = data
        if isinstance(data, str) and (found := re.search(r'"url":"https?:\\?/\\?/[^":/\\]+:(\d+)', data)):
            facts.http_port = facts.https_port = int(found[1])
    for request in recording.upstream:
        port = dict(request["headers"]).get("X-Forwarded-Port")
        if port is not None:
            facts.http_port = facts.https_port = int(port)
    return facts


def answers_in_order(recording: Recording) -> Iterator[tuple[str, Any]]:
    """Each PDK call with the data of the Step that came for it, if one came."""
    waiting: dict[tuple[str, int], tuple[str, Any]] = {}
    for frame in recording.frames:
        message = frame.message
        if frame.kind != "frame" or not isinstance(message, list):
            continue
        if not frame.from_kong:
            result = message[3] if len(message) > 3 else None
            data = result.get("Data") if isinstance(result, dict) else None
            if isinstance(data, dict) and isinstance(data.get("Method"), str):
                waiting[frame.plugin, frame.connection] = data["Method"], message[3].get("EventId")
            continue
        if message[2].startswith("plugin.Step") and isinstance(message[3][0], dict):
            event = message[3][0].get("EventId")
            for key, (method, of_event) in list(waiting.items()):
                if key[0] == frame.plugin and of_event == event:
                    del waiting[key]
                    yield method, decoded(message[3][0].get("Data"))
                    break


def _answers(recording: Recording) -> dict[str, deque[Any]]:
    answers: dict[str, deque[Any]] = {}
    for method, data in answers_in_order(recording):
        answers.setdefault(method, deque()).append(data)
    return answers


def _teller(name: str, answers: dict[str, deque[Any]]) -> Any:
    method = METHODS[name.encode()]

    def tell(x: KongExchange, args: list[Any]) -> Any:
        told = answers[name].popleft() if answers.get(name) else None
        if name == "kong.nginx.get_var":
            variable = args[0].decode("utf-8", "replace") if args and isinstance(args[0], bytes) else ""
            known = variable in variables(x) or variable.startswith(("http_", "arg_"))
            if known and variable not in _OWN_VARIABLES:
                return method.function(x, *args)
            return from_wire(told)
        made = method.function(x, *args)
        value = from_wire(told)
        # Of another type it would be a fault of the simulation, and is left to be seen.
        same = type_name(value) == type_name(made) or (name == "kong.vault.get" and value is None)
        return value if same or made is None else made

    return tell


def _request_ids(recording: Recording) -> Iterator[bytes]:
    for exchange in recording.exchanges:
        if exchange.is_action:
            continue
        response = exchange.response or {}
        texts = [f"{name}: {value}" for name, value in response.get("headers") or ()]
        body = response.get("body_text")
        if isinstance(body, str):
            texts.append(body)
        found = re.findall(r"(?i)x-kong-request-id: ([0-9a-f]{32})", "\n".join(texts))
        yield from (each.encode() for each in found or ["0" * 32])


class RecordedService:
    """The service behind the recorded Kong: what it answers, and which addresses there are."""

    def __init__(self, recording: Recording, ports: set[int]) -> None:
        self._ports = ports | {int(request["port"]) for request in recording.upstream}
        self.asked: list[UpstreamRequest] = []

    def __call__(self, request: UpstreamRequest) -> UpstreamReply:
        if request.port not in self._ports:
            raise ConnectionRefusedError(f"{request.host}:{request.port} is not there")
        self.asked.append(request)
        path = request.target.partition(b"?")[0]
        if request.scheme == "tcp":
            path = [*request.body.split(b" "), b""][1].partition(b"?")[0]
        return _reply(path)


def _reply(path: bytes) -> UpstreamReply:
    lines = [
        (b"Content-Type", b"application/json"),
        *((b"X-Multi", b"one"), (b"X-Multi", b"two"), (b"Set-Cookie", b"c1=1"), (b"Set-Cookie", b"c2=2")),
        (b"X-Single", b"s"),
    ]
    status, reason, body = 200, "OK", _BODY
    found = re.search(rb"/up([a-z0-9]+)", path)
    kind = found[1] if found else b""
    if kind == b"latin":
        lines.append((b"X-Latin", b"caf\xe9"))
    elif kind == b"404":
        status, reason = 404, "Not Found"
    elif kind == b"500":
        status, reason = 500, "Internal Server Error"
    elif kind == b"bin":
        body = bytes(range(256)) * 4
    elif kind == b"big":
        body = b"B" * 2**20
    elif kind:
        raise NotSimulated(f"the recorded service's answer to {path.decode('latin-1')}")
    lines.append((b"Content-Length", b"%d" % len(body)))
    return UpstreamReply(status, Headers(lines), body, reason)


def upstream_names(recording: Recording) -> set[str]:
    """Names that `kong.service.set_upstream` took: the recorded part of the configuration lacks them."""
    asked = []
    for frame in recording.frames:
        message = frame.message
        result = (
            message[3] if not frame.from_kong and isinstance(message, list) and len(message) > 3 else None
        )
        data = result.get("Data") if isinstance(result, dict) else None
        if isinstance(data, dict) and data.get("Method") == _SET_UPSTREAM:
            args = data.get("Args")
            asked.append(str(args[0]) if isinstance(args, list) and args else "")
    taken = [data for call, data in answers_in_order(recording) if call == _SET_UPSTREAM]
    return {name for name, is_taken in zip(asked, taken, strict=False) if is_taken}
