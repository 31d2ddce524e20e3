"""Kong's client of plugin servers: instances, events and their steps, and what each odd answer leads to."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from coprocess.desk.kong.simulator.entities import PluginEntity
from coprocess.desk.kong.simulator.exchange import (
    AwaitBody,
    EndOfStream,
    Exchange,
    PdkCall,
    Receive,
    Release,
    Send,
    Sleep,
    Task,
)
from coprocess.desk.kong.simulator.lua import LuaError, from_wire, tostring, type_name
from coprocess.desk.kong.simulator.pdk import READS_BODY, call_method, find_method, step_of

#: How long a request waits for another one that starts the instance, and how often it looks.
_CLAIM_S, _POLL_S = 10.0, 0.1


@dataclass(slots=True)
class Instance:
    """One plugin entity on its server. Without an id while it is being started."""

    sequence: int
    id: Any = None


@dataclass(eq=False, slots=True)
class Worker:
    """What one worker process of nginx knows of plugin servers."""

    number: int = 0
    message_ids: dict[str, int] = field(default_factory=dict)
    instances: dict[str, Instance] = field(default_factory=dict)
    server_pids: dict[str, Any] = field(default_factory=dict)
    #: Plugin of each key in `instances`.
    plugins: dict[str, str] = field(default_factory=dict)

    def next_message_id(self, plugin: str) -> int:
        """They count by plugin, over all connections."""
        self.message_ids[plugin] = self.message_ids.get(plugin, 0) + 1
        return self.message_ids[plugin]

    def forget(self, plugin: str) -> None:
        """All instances of a plugin are gone: its server is another one now."""
        for key in [key for key, name in self.plugins.items() if name == plugin]:
            self.instances.pop(key, None)


@dataclass(frozen=True, slots=True)
class _Failure:
    """An error that is returned, and not raised."""

    error: Any


def handle_event(x: Exchange, entity: PluginEntity) -> Task[None]:
    """Run one phase of one plugin. Raises LuaError and Exit; every other failure lets the request go on."""
    while True:
        outcome = yield from _run(x, entity)
        if not isinstance(outcome, _Failure):
            return
        error = outcome.error
        if error is None or error is False:
            return
        if not isinstance(error, bytes):
            raise LuaError(f"attempt to index local 'err' (a {type_name(error)} value)")
        if b"no plugin instance" not in error.lower():
            x.write_log("err", error)
            x.incident("open", error.decode("utf-8", "replace"))
            return
        x.write_log("warn", error)
        for worker in x.kong.workers:
            worker.forget(entity.name)


def _run(x: Exchange, entity: PluginEntity) -> Task[_Failure | None]:
    instance = yield from _instance_id(x, entity)
    if isinstance(instance, _Failure):
        return instance
    event = {b"InstanceId": instance, b"EventName": x.phase.encode()}
    answer = yield from _call(x, entity, "plugin.HandleEvent", _without_nil(event))
    event_id: Any = None
    is_first = True
    while True:
        if isinstance(answer, _Failure):
            return answer
        if answer is None or answer is False:
            x.incident("open", "the plugin server answered nil")
            return None
        if is_first:
            event_id, is_first = _index(answer, b"EventId"), False
        data = _index(answer, b"Data")
        if data == b"ret":
            return None
        if not isinstance(data, (dict, bytes)):
            raise LuaError(f"attempt to index field 'Data' (a {type_name(data)} value)")
        method, args = _index(data, b"Method"), _index(data, b"Args")
        if method is None:
            raise LuaError("table index is nil")
        if method in READS_BODY:
            yield AwaitBody()
        result = _pdk_call(x, method, args)
        step = _without_nil({b"EventId": event_id, b"Data": result})
        answer = yield from _call(x, entity, f"plugin.{step_of(method)}", step)


def _pdk_call(x: Exchange, method: Any, args: Any) -> Any:
    call = PdkCall(x.plugin.name if x.plugin else "", x.phase, method, args)
    x.calls.append(call)
    try:
        function = find_method(method)
        if function is None:
            x.write_log("err", b"could not find pdk method: " + tostring(method))
            call.error = "there is no such method"
            return None
        call.result = call_method(x, function, _unpacked(args))
    except LuaError as error:
        call.error = str(error)
        raise
    return call.result


def _unpacked(args: Any) -> list[Any]:
    """Lua's `unpack`: a hole cuts off what comes after it."""
    if not isinstance(args, dict):
        return [args]
    if 1 not in args and 2 in args and len(args) == 1:
        # Seen: of two of which the first is nil, the second still comes.
        return [None, args[2]]
    values: list[Any] = []
    while len(values) + 1 in args:
        values.append(args[len(values) + 1])
    return values


def _index(value: Any, key: bytes) -> Any:
    if isinstance(value, dict):
        return value.get(key)
    if isinstance(value, bytes):
        # Strings have methods, and none of these names.
        return None
    raise LuaError(f"attempt to index a {type_name(value)} value")


def _without_nil(table: dict[Any, Any]) -> dict[Any, Any]:
    return {key: value for key, value in table.items() if value is not None}


def _instance_id(x: Exchange, entity: PluginEntity) -> Task[Any]:
    worker, key = x.worker, entity.id
    waited = 0.0
    while (known := worker.instances.get(key)) is not None and known.id is None:
        if waited >= _CLAIM_S:
            return _Failure(f"Could not claim instance_id for {entity.name} (key: {key})".encode())
        yield Sleep(_POLL_S)
        waited += _POLL_S
    if known is not None and known.sequence == entity.sequence:
        return known.id
    old = known.id if known is not None else None
    worker.plugins[key] = entity.name
    worker.instances[key] = Instance(entity.sequence)
    started = worker.instances[key]
    config = json.dumps(entity.instance_config(), separators=(",", ":"), ensure_ascii=False)
    argument = {b"Name": entity.name.encode(), b"Config": config.encode("utf-8", "surrogateescape")}
    answer = yield from _call(x, entity, "plugin.StartInstance", argument)
    if isinstance(answer, _Failure) or answer is None:
        text = b"nil" if answer is None else tostring(answer.error)
        x.write_log("err", b"starting instance: " + text)
        if worker.instances.get(key) is started:
            del worker.instances[key]
        raise LuaError(text.decode("utf-8", "replace"))
    started.id = _index(answer, b"Id")
    # A notification in between may have thrown it away.
    worker.instances[key] = started
    if old is not None:
        yield from _call(x, entity, "plugin.CloseInstance", old)
    return started.id


def _call(x: Exchange, entity: PluginEntity, method: str, argument: Any) -> Task[Any]:
    """The result of one request to the server; `_Failure` where it answers an error, or not at all."""
    worker, plugin = x.worker, entity.name
    if entity.info is not None and not entity.info.protocol.startswith("MsgPack"):
        raise LuaError("attempt to index field 'rpc' (a nil value)")
    try:
        message_id = yield Send(worker, plugin, method, argument)
    except ConnectionError as error:
        return _Failure((str(error) or "connection refused").encode())
    try:
        while True:
            try:
                value = from_wire((yield Receive()))
            except EndOfStream:
                yield Release(broken=True)
                return _Failure(b"no data")
            kind = _index(value, b"") if not isinstance(value, dict) else value.get(1)
            if kind == 2:
                _notified(x, plugin, value)
                continue
            if kind != 1:
                raise LuaError("RPC response expected from Go plugin server")
            if value.get(2) != message_id:
                raise LuaError("unexpected RPC response ID from Go plugin server")
            break
    except LuaError:
        yield Release(broken=True)
        raise
    yield Release()
    told = value.get(3)
    # False is no error to who looks whether there is one.
    return value.get(4) if told is None or told is False else _Failure(told)


def _notified(x: Exchange, plugin: str, value: dict[Any, Any]) -> None:
    if value.get(2) != b"serverPid":
        return
    known = x.worker.server_pids.get(plugin)
    if known is not None and known != value.get(3):
        for worker in x.kong.workers:
            worker.forget(plugin)
    x.worker.server_pids[plugin] = value.get(3)
