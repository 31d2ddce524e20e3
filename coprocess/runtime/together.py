"""Two gateways at one address: each has methods of its own, and both run the same handlers."""

from __future__ import annotations

from collections.abc import Mapping

from coprocess.api.context import CallContext
from coprocess.loading.hooks import Hook, HookTable
from coprocess.runtime.call import Call
from coprocess.runtime.gateway import Gateway, Opener
from coprocess.runtime.registration import GatewayOptions, Registration
from coprocess.runtime.streaming import ChainedHandler, StreamHandler, Streaming
from coprocess.transport.engine import FailedReply


def together(first: Registration, second: Registration) -> Registration:
    """Both. The handlers are loaded for `first`: what only that has, those of `second` do not get."""

    def make(table: HookTable, options: GatewayOptions) -> Gateway:
        return _Both(first.make(table, options), second.make(table, options))

    def descriptors() -> list[bytes]:
        # A file that both have is one file.
        return list(dict.fromkeys([*first.descriptors(), *second.descriptors()]))

    return Registration(
        first.home,
        make,
        services=(*first.services, *second.services),
        methods=(*first.methods, *second.methods),
        bidi_methods=(*first.bidi_methods, *second.bidi_methods),
        descriptors=descriptors,
    )


class _Both(Gateway, Streaming):
    name = "both"

    def __init__(self, first: Gateway, second: Gateway) -> None:
        self._first = first
        self._second = second
        self._streaming = [each for each in (first, second) if isinstance(each, Streaming)]

    # Not a property of the base class, which declares an attribute.
    @property
    def table(self) -> HookTable:
        return self._first.table

    @table.setter
    def table(self, table: HookTable) -> None:
        self._first.table = table
        self._second.table = table

    def check_table(self, table: HookTable) -> None:
        self._first.check_table(table)
        self._second.check_table(table)

    @property
    def methods(self) -> Mapping[str, Opener]:
        return {**self._first.methods, **self._second.methods}

    @property
    def chained_methods(self) -> Mapping[str, ChainedHandler]:
        return {path: each for gateway in self._streaming for path, each in gateway.chained_methods.items()}

    @property
    def bidi_methods(self) -> Mapping[str, StreamHandler]:
        return {path: each for gateway in self._streaming for path, each in gateway.bidi_methods.items()}

    @property
    def failed_replies(self) -> Mapping[str, FailedReply]:
        return {path: each for gateway in self._streaming for path, each in gateway.failed_replies.items()}

    @property
    def open_streams(self) -> int:
        return sum(gateway.open_streams for gateway in self._streaming)

    def end_overdue(self, now_s: float) -> None:
        for gateway in self._streaming:
            gateway.end_overdue(now_s)

    def give_up(self) -> None:
        for gateway in self._streaming:
            gateway.give_up()

    def holds(self, hook: Hook) -> bool:
        return any(gateway.holds(hook) for gateway in self._streaming)

    def open_local_event(self, name: str, payload: str, caller: CallContext | None) -> Call:
        return self._first.open_local_event(name, payload, caller)

    def open_webhook(self, name: str, body: bytes, about: Mapping[str, str]) -> Call:
        return self._first.open_webhook(name, body, about)
