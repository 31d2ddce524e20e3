"""Recordings that are tables: one PDK call in one phase each, and what Kong starts with."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from coprocess.bounded import repr_of
from coprocess.desk.kong.replay.compare import RUN_KEYS, differences
from coprocess.desk.kong.replay.recording import Cut, decoded
from coprocess.desk.kong.simulator.dump import PluginInfo, read_dump
from coprocess.desk.kong.simulator.entities import load_entities
from coprocess.desk.kong.simulator.exchange import (
    AskUpstream,
    Exchange,
    Facts,
    Receive,
    Send,
    Sleep,
    Spawn,
    Task,
)
from coprocess.desk.kong.simulator.gateway import Kong
from coprocess.desk.kong.simulator.http import ClientRequest, Headers, UpstreamReply
from coprocess.desk.kong.simulator.lua import LuaError, decode
from coprocess.errors import ConfigError

#: Whose answers are of that run: they only have to be of the same kind.
_OF_THE_RUN = (
    *("kong.request.get_start_time", "kong.nginx.req_start_time", "kong.client.get_port"),
    *("kong.client.get_forwarded_port", "kong.node.get_id", "kong.node.get_hostname", "kong.plugin.get_id"),
    *("kong.nginx.get_statistics", "kong.node.get_memory_stats", "kong.router.get_route"),
    *("kong.router.get_service", "kong.log.serialize"),
)
_PHASES = ("rewrite", "access", "response", "log")
_LINES = [(b"X-Multi", b"one"), (b"X-Multi", b"two"), (b"Set-Cookie", b"c1=1"), (b"Set-Cookie", b"c2=2")]
_LINES += [(b"Content-Type", b"application/json"), (b"Content-Length", b"21"), (b"X-Single", b"s")]
_REPLY = UpstreamReply(200, Headers(_LINES), b'{"hello":"upstream"}\n')


@dataclass(slots=True)
class ScriptedServer:
    """Answers every request at once; one call in one phase, then `ret`."""

    phase: str
    call: dict[str, Any]
    #: Whether it is there at all.
    is_there: bool = True
    instance_config: Any = None
    step: tuple[str, Any] | None = None
    _answer: Any = None

    def run(self, task: Task[None]) -> None:
        """One task to its end, and what it started."""
        value: Any = None
        error: BaseException | None = None
        number = 0
        while True:
            try:
                wait = task.send(value) if error is None else task.throw(error)
            except StopIteration:
                return
            value = error = None
            if isinstance(wait, Send):
                number += 1
                value = number
                if not self.is_there:
                    error = ConnectionRefusedError("connection refused")
                else:
                    self._asked(decode(wait.frame(number)), number)
            elif isinstance(wait, Receive):
                value = self._answer
            elif isinstance(wait, Spawn):
                self.run(wait.task)
            elif isinstance(wait, AskUpstream):
                value = _REPLY
            elif isinstance(wait, Sleep):
                raise LuaError("nothing here takes time")

    def _asked(self, frame: list[Any], number: int) -> None:
        method, argument = frame[2], frame[3][0]
        if method == "plugin.StartInstance":
            self.instance_config = json.loads(argument["Config"])
            result: Any = {"Id": 0}
        elif method == "plugin.HandleEvent" and argument["EventName"] == self.phase:
            result = {"EventId": 0, "Data": self.call}
        else:
            if method.startswith("plugin.Step"):
                self.step = method, argument.get("Data", "<absent>")
            result = {"EventId": 0, "Data": "ret"}
        self._answer = [1, number, None, result]


def matrix_differences(calls: list[dict[str, Any]]) -> Iterator[str]:
    """Of each PDK call in each phase: the Step that came, and what the client got."""
    for entry in calls:
        name = f"{entry['phase']}, {entry['method']}"
        args = [decoded(each) for each in entry["args"]]
        server = ScriptedServer(entry["phase"], {"Method": entry["method"], "Args": args})
        x = _matrix_exchange(entry)
        server.run(x.kong.serve(x))
        status = str(x.response.status if x.response else "")
        if status != entry["status"]:
            yield f"{name}: status: expected {entry['status']}, got {status}"
        recorded = entry["result"]
        if not isinstance(recorded, dict):
            if server.step is not None:
                yield f"{name}: expected no step, got {repr_of(server.step, 100)}"
            continue
        if server.step is None:
            yield f"{name}: expected {recorded['step']}, got no step"
        elif server.step[0] != recorded["step"]:
            yield f"{name}: expected {recorded['step']}, got {server.step[0]}"
        else:
            data = decoded(recorded["data"])
            yield from (
                f"{name}: {text}" for text in _data_differences(entry["method"], data, server.step[1])
            )


def _data_differences(method: str, recorded: Any, made: Any) -> Iterator[str]:
    if isinstance(recorded, Cut):
        # The rest of it is in no recording.
        kinds = (str, bytes) if method == "kong.log.serialize" else (dict, list)
        if not isinstance(made, kinds):
            yield f"expected {kinds[0].__name__}, got {repr_of(made, 80)}"
    elif method in _OF_THE_RUN:
        if type(recorded) is not type(made):
            yield f"expected {repr_of(recorded, 80)}, got {repr_of(made, 80)}"
    else:
        yield from differences(recorded, made, ignored=RUN_KEYS)


def _matrix_exchange(entry: dict[str, Any]) -> Exchange:
    info = PluginInfo("matrix", _PHASES, 100, "0.1.0", [])
    ann = {"id": "11111111-1111-4111-8111-111111111111", "username": "ann", "custom_id": "c-ann"}
    document = {
        "services": [{"url": "http://127.0.0.1:21300", "routes": [{"paths": ["/matrix"]}]}],
        "plugins": [{"name": "matrix"}],
        "consumers": [{**ann, "tags": ["t1"]}],
        "upstreams": [{"name": "up-two", "targets": [{"target": "127.0.0.1:21301"}]}],
    }
    kong = Kong(load_entities(document, {"matrix": info}), Facts(http_port=21200))
    lines = [(b"Host", b"example.test"), (b"X-Phase", entry["phase"].encode())]
    lines += [(b"X-Call", entry["method"].removeprefix("kong.").encode())]
    lines += [(b"X-Args", json.dumps(entry["args"]).encode()), (b"X-One", b"1")]
    lines += [(b"Content-Type", b"application/json"), (b"Content-Length", b"7"), (b"Connection", b"close")]
    return kong.exchange(ClientRequest("POST", b"/matrix/?q=1", 1.1, Headers(lines), b'{"a":1}'))


def variant_differences(variants: list[dict[str, Any]]) -> Iterator[str]:
    """Of what a query command prints, and of configurations: whether Kong starts, and serves."""
    for entry in variants:
        name = entry["name"]
        x, server, refused = _started(entry)
        code = 0 if x is not None else 1
        if code != entry["kong_start_rc"]:
            yield f"{name}: exit status at start: expected {entry['kong_start_rc']}, got {code}: {refused}"
        request = entry.get("request")
        if x is None or request is None:
            continue
        server.run(x.kong.serve(x))
        line = x.response.status_line if x.response else ""
        if line != request["status"]:
            yield f"{name}: status line: expected {request['status']!r}, got {line!r}"
        for seen in request.get("x_seen") or ():
            recorded = ast.literal_eval(seen.partition(":")[2].strip())
            made = {key: value for key, value in server.instance_config.items() if not key.startswith("__")}
            # The route's id is that run's.
            yield from (
                f"{name}: config: {text}"
                for text in differences(recorded, made, ignored=RUN_KEYS | {"route_id"})
            )


def _started(entry: dict[str, Any]) -> tuple[Exchange | None, ScriptedServer, str]:
    """The request to a Kong that started, and why it did not."""
    call = {"Method": "kong.response.set_header", "Args": ["X-Seen", "config"]}
    server = ScriptedServer("access", call, is_there=entry.get("start_cmd") is None)
    try:
        if entry["dump"] is None:
            raise ConfigError("the query command is not there")
        info = read_dump(entry["dump"])
        plugin = {"name": "dv"} | ({} if entry["config"] is None else {"config": entry["config"]})
        route = {"paths": ["/"], "plugins": [plugin]}
        document = {"services": [{"url": "http://127.0.0.1:21800", "routes": [route]}]}
        kong = Kong(load_entities(document, {info.name: info}))
    except ConfigError as error:
        return None, server, str(error)
    request = ClientRequest("GET", b"/", 1.1, Headers([(b"Host", b"example.test")]))
    return kong.exchange(request), server, ""
