"""A stream of ext_proc as the service runs it, without an engine: messages in, replies out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from coprocess.errors import Status
from coprocess.gateways.envoy import wire
from coprocess.gateways.envoy.gateway import EnvoyGateway
from coprocess.gateways.envoy.stream import refusal
from coprocess.runtime.service import Service
from coprocess.runtime.service_options import ServiceOptions
from coprocess.transport.engine import BidiRpc, FailedReply, Metadata


class _Rpc(BidiRpc):
    """It runs what is to be run at once."""

    def __init__(self, metadata: Metadata) -> None:
        super().__init__(wire.PROCESS)
        self._metadata = metadata
        self.sent: list[bytes] = []
        self.ended: tuple[Status | None, str] | None = None
        self.cancel: Callable[[], None] = lambda: None

    def on_cancel(self, callback: Callable[[], None]) -> None:
        self.cancel = callback

    def on_loop(self, task: Callable[[], None]) -> None:
        task()

    in_thread = on_loop

    def begin(self, metadata: Metadata) -> None:
        raise AssertionError("nobody asks for that")

    def send(self, message: bytes) -> bool:
        if self.ended is None:
            self.sent.append(message)
        return self.ended is None

    def end(
        self, status: Status | None = None, message: str = "", details: bytes = b"", metadata: Metadata = ()
    ) -> None:
        self.ended = self.ended or (status, message)

    def failed_reply(self) -> FailedReply | None:
        return refusal

    def metadata(self) -> Metadata:
        return self._metadata

    def time_allowed_s(self) -> float | None:
        return None


class _Silent:
    """For what is told of calls."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments, **more: None


class ServedStream:
    """Its handlers are sync."""

    def __init__(self, gateway: EnvoyGateway, says: Mapping[str, str] | None = None) -> None:
        self.service = Service(gateway, ServiceOptions(owns_process=False), logger=_Silent())
        self.rpc = _Rpc(list((says or {}).items()))
        gateway.process(self.service, self.rpc)

    @property
    def is_done(self) -> bool:
        return self.rpc.ended is not None

    def send(self, message: bytes) -> list[bytes]:
        """The replies to it."""
        self.rpc.sent.clear()
        self.rpc.on_message(message)
        return list(self.rpc.sent)
