"""What a gateway brings along whose messages take several calls, or come as streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from coprocess.loading.hooks import Hook
from coprocess.transport.engine import BidiRpc, FailedReply, Rpc

if TYPE_CHECKING:
    from coprocess.runtime.service import Service

#: Answers a unary call, or begins a stream, with the calls that a service runs for it: see `runtime.chained`.
#: It never raises, and refuses what comes while the service is draining.
ChainedHandler = Callable[["Service", Rpc], None]
#: The second is a NotingHandler's.
StreamHandler = Callable[["Service", BidiRpc], None]


class Streaming:
    """A Gateway that has such methods is one of these, too."""

    @property
    def chained_methods(self) -> Mapping[str, ChainedHandler]:
        """Its unary methods that take several calls, by path."""
        return {}

    @property
    def bidi_methods(self) -> Mapping[str, StreamHandler]:
        """Its methods with many messages each way, by path."""
        return {}

    @property
    def failed_replies(self) -> Mapping[str, FailedReply]:
        """As that of Methods."""
        return {}

    @property
    def open_streams(self) -> int:
        """Calls of `bidi_methods` that are not over, and others that no gate of a hook holds."""
        return 0

    def end_overdue(self, now_s: float) -> None:
        """End what waits too long for something else than a handler. Called by the watchdog; never raises."""

    def give_up(self) -> None:
        """Answer what is open: the service stops, and waits no longer. From any thread; never raises."""

    def holds(self, hook: Hook) -> bool:
        """Whether calls of `hook` may come of a stream that is open."""
        return False


#: Of a gateway without such methods.
NO_STREAMS = Streaming()
