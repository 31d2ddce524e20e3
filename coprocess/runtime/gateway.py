"""The seam between the runner and a gateway: what a gateway brings along."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from typing import Any

from coprocess.api.context import CallContext
from coprocess.errors import BadMessage
from coprocess.loading.hooks import Hook, HookTable
from coprocess.runtime.call import Call

#: Opens the call that a serialized message asks for. Raises CoprocessError, whose status its client gets.
Opener = Callable[[bytes], Call]


class Gateway(ABC):
    """One gateway at work: opens calls on the handlers of `table`.

    Assigning `table` is a reload: calls that are open end on the table they were opened on.
    """

    #: As its home's.
    name: str
    table: HookTable

    @property
    @abstractmethod
    def methods(self) -> Mapping[str, Opener]:
        """What it serves over gRPC, by the method's path."""

    def holds(self, hook: Hook) -> bool:
        """Whether it still needs `hook`, of a table from before, for what no call of the service shows."""
        return False

    #: Whether its calls ask it for something while they run: while one waits for that, another computes.
    is_asked_meanwhile: bool = False
    #: How long a call may wait for a place in its hook, where the gateway goes on without an answer that
    #: comes too late.
    most_queued_s: float | None = None
    #: Starts coroutines on the loop that async handlers run on, where that is not the service's.
    spawn: Callable[[Coroutine[Any, Any, Any]], Future[Any]] | None = None

    def use(self, service: Any) -> None:  # noqa: B027 - most have nothing to do
        """Have its calls run by `service`, where they do not come by an engine's Rpc.

        It is a `runtime.service.Service`, which this module must not import: gateways' dispatchers do no I/O.
        """

    def check_table(self, table: HookTable) -> None:  # noqa: B027 - the same
        """Raises ConfigError where these handlers do not fit the settings: they are not loaded then."""

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
