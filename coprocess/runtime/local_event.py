"""Events of this service's own handlers, as the service runs them."""

from __future__ import annotations

from collections.abc import Callable

from coprocess.errors import Status
from coprocess.transport.engine import Metadata, Rpc


class LocalEvent(Rpc):
    """The call of an event that a handler triggered: nobody waits for its answer."""

    __slots__ = ("_unfinished",)

    def __init__(self, unfinished: set[Rpc]) -> None:
        self.method, self.payload = "", b""
        self._unfinished = unfinished
        unfinished.add(self)

    def respond(self, reply: bytes) -> None:
        self._unfinished.discard(self)

    def fail(self, status: Status, message: str) -> None:
        self._unfinished.discard(self)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        pass

    def metadata(self) -> Metadata:
        return ()

    def time_allowed_s(self) -> float | None:
        return None
