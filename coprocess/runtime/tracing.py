"""What the runner tells of its calls to whoever traces them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from coprocess.errors import CoprocessError
from coprocess.transport.engine import Rpc

if TYPE_CHECKING:
    from coprocess.runtime.call import Call


class RequestTrace(Protocol):
    """A request that handlers and an app answer together."""

    def current(self) -> AbstractContextManager[object]:
        """What runs within belongs to the request."""

    def answered(self, status: int) -> None:
        """The response has begun."""

    def end(self, error: BaseException | None) -> None:
        """The request has ended, with what the app raised, if it did."""


class CallTracing(Protocol):
    """Follows calls. Each `rpc` it is passed is one that it gave itself."""

    def of(self, rpc: Rpc) -> Rpc:
        """A call begins that came by no engine: a part of a stream, say."""

    def request(self, method: str, api_id: str, headers: Iterable[tuple[str, str]]) -> RequestTrace:
        """A request begins whose calls are traced `within` it. Of its headers, the trace context is read."""

    def within(self, rpc: Rpc, call: Call) -> Rpc:
        """A call begins that is a part of the request which is current here."""

    def local_event(self, rpc: Rpc) -> Rpc:
        """An event begins that runs apart from the call that triggered it."""

    def know_hook(self, rpc: Rpc, call: Call) -> None:
        """The hook of a call is known, which may never run."""

    def run(self, call: Call) -> bytes:
        """`Call.run`, as a part of its trace."""

    async def run_async(self, call: Call) -> bytes:
        """`Call.run_async`, as a part of its trace."""

    def failed(self, rpc: Rpc, error: CoprocessError) -> None:
        """A call has failed: also where its client will be answered as if it had not."""

    def ids(self, rpc: Rpc) -> dict[str, str]:
        """What a log line about the call tells of its trace."""
