"""The seam between the runner and a gateway: what a gateway brings along."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

from coprocess.api.context import CallContext
from coprocess.errors import BadMessage
from coprocess.loading.hooks import Hook, HookTable
from coprocess.runtime.call import Call
from coprocess.transport.engine import BidiRpc, Rpc

if TYPE_CHECKING:
    from coprocess.runtime.service import Service

#: Opens the call that a serialized message asks for. Raises CoprocessError, whose status its client gets.
Opener = Callable[[bytes], Call]
#: Answers a unary call, or begins a stream, with the calls that a service runs for it.
ChainedHandler = Callable[["Service", Rpc], None]
BidiHandlerOf = Callable[["Service", BidiRpc], None]


class Gateway(ABC):
    """One gateway at work: opens calls on the handlers of `table`.

    Assigning `table` is a reload: calls that are open end on the table they were opened on.
    """

    name: ClassVar[str]
    table: HookTable

    @property
    @abstractmethod
    def methods(self) -> Mapping[str, Opener]:
        """What it serves over gRPC, by the method's path."""

    @property
    def chained_methods(self) -> Mapping[str, ChainedHandler]:
        """The same for methods whose messages may take several calls: see `runtime.chained`."""
        return {}

    @property
    def bidi_methods(self) -> Mapping[str, BidiHandlerOf]:
        """Its methods with many messages each way, by the method's path."""
        return {}

    @property
    def open_streams(self) -> int:
        """Calls of `bidi_methods` that are not over."""
        return 0

    def holds(self, hook: Hook) -> bool:
        """Whether calls of `hook` may come of a stream that is open."""
        return False

    @abstractmethod
    def open_local_event(self, name: str, payload: str, caller: CallContext | None) -> Call:
        """The call of the `@Event` function `name`, for an event that a handler triggers.

        `payload` is its text; `caller` the call that triggers it, where one does. Raises UnknownHook.
        """

    def open_webhook(self, name: str, body: bytes, about: Mapping[str, str]) -> Call:
        """The call of the `@Event` function `name`, for an event that came over HTTP.

        `about` is the URL's query: `api_id` and `org_id` where they are known. Raises BadMessage where the
        body is no event, and UnknownHook.
        """
        raise BadMessage(f"{self.name} sends no webhooks")
