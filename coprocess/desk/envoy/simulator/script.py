"""A server that gives the recorded replies, at the recorded moments."""

from __future__ import annotations

import grpc

from coprocess.desk.envoy.simulator.exchange import Pairs
from coprocess.desk.envoy.simulator.recording import Entry, Stream
from coprocess.desk.envoy.simulator.server import (
    ProcessStream,
    ServerEnd,
    ServerEvent,
    ServerMessage,
    ServerUnreachable,
)

#: The recorder's clusters: another one is a closed port.
_CLUSTER = "extproc"
#: The recorder's server is grpcio's, with its limit.
_MAX_MESSAGE_BYTES = 4 * 1024 * 1024
_RESOURCE_EXHAUSTED = 8


class ScriptedServer:
    """Plays the streams of one recording, in their order."""

    def __init__(self, streams: list[Stream]) -> None:
        self._streams = list(streams)

    def process(self, cluster: str, metadata: Pairs) -> ProcessStream:
        if cluster != _CLUSTER:
            raise ServerUnreachable
        return _ScriptedStream(self._next("ext_proc"))

    def check(
        self, cluster: str, metadata: Pairs, payload: bytes, timeout_s: float | None
    ) -> tuple[ServerEvent | None, float]:
        if cluster != _CLUSTER or len(payload) > _MAX_MESSAGE_BYTES:
            raise ServerUnreachable
        stream = _ScriptedStream(self._next("ext_authz"))
        stream.send(payload)
        return stream.receive(timeout_s if timeout_s is not None else float("inf"))

    def _next(self, service: str) -> Stream:
        for index, stream in enumerate(self._streams):
            if stream.service == service:
                return self._streams.pop(index)
        return Stream(service, (), ())


class _ScriptedStream(ProcessStream):
    def __init__(self, stream: Stream) -> None:
        self._entries = list(stream.entries)
        self._ready: list[Entry] = []
        self._last_ms = 0.0
        self._refusal: ServerEnd | None = None

    def send(self, payload: bytes) -> bool:
        message = next((entry for entry in self._entries if entry.is_envoys and not entry.event), None)
        if message is None:
            if len(payload) > _MAX_MESSAGE_BYTES:
                size = f"{len(payload)} vs. {_MAX_MESSAGE_BYTES}"
                text = f"SERVER: Received message larger than max ({size})"
                self._refusal = ServerEnd(_RESOURCE_EXHAUSTED, text)
                return False
            return True
        # The recorder saw the server's replies before messages that had been sent already.
        index = self._entries.index(message)
        self._ready += [entry for entry in self._entries[:index] if not entry.is_envoys]
        del self._entries[: index + 1]
        self._last_ms = message.ms
        return True

    def receive(self, timeout_s: float) -> tuple[ServerEvent | None, float]:
        if self._refusal is not None:
            return self._refusal, 0.0
        if self._ready:
            return _event(self._ready.pop(0)), 0.0
        if not self._entries or self._entries[0].event:
            return None, timeout_s
        if self._entries[0].is_envoys:
            return None, 0.0
        waited_s = max(self._entries[0].ms - self._last_ms, 0.0) / 1000
        if waited_s > timeout_s:
            return None, timeout_s
        return self._take(), waited_s

    def poll(self) -> ServerEvent | None:
        if self._ready:
            return _event(self._ready.pop(0))
        if not self._entries or self._entries[0].is_envoys:
            return None
        return self._take()

    def close(self) -> None:
        self._ready.clear()
        self._entries.clear()

    def _take(self) -> ServerEvent:
        entry = self._entries.pop(0)
        self._last_ms = entry.ms
        return _event(entry)


def _event(entry: Entry) -> ServerEvent:
    if entry.status:
        code = getattr(grpc.StatusCode, entry.status, None)
        if code is None:
            raise ValueError(f"the status {entry.status!r} is none of gRPC's")
        return ServerEnd(code.value[0], entry.message)
    return ServerMessage(entry.raw or b"")
