"""One Object in, one Object out: finds the handler for what the gateway sent. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from google.protobuf.message import DecodeError

from coprocess.api.context import CallContext
from coprocess.api.moments import HookType
from coprocess.errors import BadMessage, UnknownHook
from coprocess.gateways.tyk.call import TykCall, TykEventCall
from coprocess.gateways.tyk.event import TykEvent, local_event_payload, parse_event
from coprocess.gateways.tyk.header_limit import HeaderLimit
from coprocess.gateways.tyk.webhook import webhook_payload
from coprocess.gateways.tyk.wire import DISPATCH, DISPATCH_EVENT, Event, Object
from coprocess.loading.hooks import NO_HEADERS, Hook, HookTable
from coprocess.runtime.gateway import Gateway, Opener


class Dispatcher(Gateway):
    """Opens calls on the handlers of `table`.

    `full_reply` sends back all that came, and not only what the gateway reads.
    """

    name = "tyk"
    #: The protocol's methods.
    METHODS = (DISPATCH, DISPATCH_EVENT)

    def __init__(self, table: HookTable, *, full_reply: bool = False, max_headers: int = 1000) -> None:
        self.table = table
        self._full_reply = full_reply
        self._header_limit = HeaderLimit(max_headers)

    @property
    def methods(self) -> Mapping[str, Opener]:
        return {DISPATCH: self.open_dispatch, DISPATCH_EVENT: self.open_event}

    def open_dispatch(self, payload: bytes) -> TykCall:
        """The call that a serialized Object asks for.

        Raises BadMessage where the message is broken, UnknownHook where no handler is loaded for it, and
        TooManyHeaders.
        """
        try:
            message = Object.FromString(payload)
        except DecodeError:
            raise BadMessage("not a coprocess.Object") from None
        if len(payload) > self._header_limit.harmless_bytes:
            self._header_limit.check(message)
        table, hook_type, name = self.table, message.hook_type, message.hook_name
        hook = table.find(hook_type, name) or _choose(
            table, hook_type, name, message.spec, message.request.headers
        )
        if hook_type == _EVENT:
            raise BadMessage(f"hook type {hook_type}: events do not come as a coprocess.Object")
        return TykCall(hook, message, payload, full_reply=self._full_reply)

    def open_event(self, payload: bytes) -> TykEventCall:
        """The same for a serialized Event."""
        try:
            message = Event.FromString(payload)
        except DecodeError:
            raise BadMessage("not a coprocess.Event") from None
        return self.open_parsed_event(parse_event(message.payload))

    def open_parsed_event(self, event: TykEvent, version: str | None = None) -> TykEventCall:
        """The call of the handler that `event` is for; of that version, where `version` is not None."""
        hook = _choose(self.table, HookType.Event, event.handler, event.spec_texts, version=version)
        return TykEventCall(hook, event)

    def open_local_event(self, name: str, payload: str, caller: CallContext | None) -> TykEventCall:
        # A version's events are for its own handlers.
        version = None if caller is None else caller.version
        return self.open_parsed_event(local_event(name, payload, caller), version)

    def open_webhook(self, name: str, body: bytes, about: Mapping[str, str]) -> TykEventCall:
        return self.open_parsed_event(parse_event(webhook_payload(name, body, about)))


def local_event(name: str, payload: str, caller: CallContext | None) -> TykEvent:
    """The event that a handler triggers, while `caller` runs; None: outside of any call."""
    spec = {"APIID": caller.api_id, "OrgID": caller.org_id} if caller is not None else {}
    return parse_event(local_event_payload(name, payload, spec, datetime.now(UTC)))


_EVENT = int(HookType.Event)
_LONGEST_NAME = 256


def _choose(
    table: HookTable,
    hook_type: int,
    name: str,
    spec: Mapping[str, str],
    headers: Mapping[str, str] = NO_HEADERS,
    version: str | None = None,
) -> Hook:
    if len(name) > _LONGEST_NAME:
        # Looking for near misses of such a name would take long.
        raise UnknownHook(f"no hook's name has {len(name)} characters: {name[:_LONGEST_NAME]!r}…")
    # .get: a protobuf map would add the key that is asked for.
    return table.choose(hook_type, name, spec.get("APIID", ""), spec.get("bundle_hash", ""), headers, version)
