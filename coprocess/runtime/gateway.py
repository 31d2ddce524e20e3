"""The seam between the runner and a gateway: what a gateway brings along."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

from coprocess.api.context import CallContext
from coprocess.errors import BadMessage
from coprocess.loading.hooks import HookTable
from coprocess.runtime.call import Call

#: Opens the call that a serialized message asks for. Raises CoprocessError, whose status its client gets.
Opener = Callable[[bytes], Call]


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
