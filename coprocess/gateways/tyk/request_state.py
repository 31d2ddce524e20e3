"""`state` that the hooks of one request share, where `request_state` is on.

The gateway's hooks have no id in common. So the first one that runs here gives the request one, in a header
that the next ones see: `X-Coprocess-State: ID.SIGNATURE`. The state lies in the store, for a time.

An id opens its state once for each hook, in the order of a request: a client, or an upstream, that sends one
again opens nothing, as the first hook has had it. One that was made up, or is another API's, has no signature
that holds.
"""

from __future__ import annotations

import hmac
import json
import secrets
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING, Any

from coprocess.api.moments import HookType
from coprocess.api.state import State
from coprocess.error_text import text_of
from coprocess.errors import HandlerFailed, StoreError
from coprocess.gateways.tyk.call import TykCall
from coprocess.gateways.tyk.wire import Object
from coprocess.loading.hooks import Hook

if TYPE_CHECKING:
    from coprocess.store import Store

HEADER = "X-Coprocess-State"
#: Beyond the prefix of all keys.
KEY_PREFIX = "request-state:"
#: Of the state of one request, as JSON.
MAX_STATE_BYTES = 65_536


class RequestStates:
    """Where the states are kept, and what signs their ids."""

    def __init__(self, store: Store, secret: str | None, keep_s: float) -> None:
        """`secret` None: one that is made up, and kept in the store, so that all who share that have it."""
        self._store = store
        self._keep_s = keep_s
        self._key = (secret or "").encode()

    def load(self, call: StatefulCall) -> None:
        """Give `call` the state of its request. Raises StoreError."""
        if not self._key:
            self._store.set_if_absent(_KEY_OF_ALL, secrets.token_hex(32))
            self._take_key(self._store.get(_KEY_OF_ALL))
        if state_id := self._id_that_came(call):
            self._open(call, state_id, self._store.get(KEY_PREFIX + state_id))

    async def load_async(self, call: StatefulCall) -> None:
        """As `load`."""
        store = self._store.aio
        if not self._key:
            await store.set_if_absent(_KEY_OF_ALL, secrets.token_hex(32))
            self._take_key(await store.get(_KEY_OF_ALL))
        if state_id := self._id_that_came(call):
            self._open(call, state_id, await store.get(KEY_PREFIX + state_id))

    def save(self, call: StatefulCall) -> None:
        """Raises StoreError, and HandlerFailed for what cannot be kept."""
        self._store.set(KEY_PREFIX + call.state_id, _kept(call), ttl_s=self._keep_s)

    async def save_async(self, call: StatefulCall) -> None:
        """As `save`."""
        await self._store.aio.set(KEY_PREFIX + call.state_id, _kept(call), ttl_s=self._keep_s)

    def signed(self, call: TykCall, state_id: str) -> str:
        """The id with its signature, for the header."""
        # Of the API, so that an id opens nothing in another.
        text = "\0".join((call.api_id, call.org_id, state_id))
        mac = hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), "sha256")
        return f"{state_id}.{urlsafe_b64encode(mac[:18]).decode()}"

    def _take_key(self, kept: bytes | None) -> None:
        if not kept:
            raise StoreError("the key of request states is not in the store")
        self._key = kept

    def _id_that_came(self, call: TykCall) -> str:
        """Empty where none came, or one that was not made here."""
        given = call.request_headers.get(HEADER, "")
        state_id = given.partition(".")[0]
        if not state_id.isascii() or not hmac.compare_digest(
            given.encode("utf-8", "surrogatepass"), self.signed(call, state_id).encode()
        ):
            return ""
        return state_id

    @staticmethod
    def _open(call: StatefulCall, state_id: str, kept: bytes | None) -> None:
        if kept is None:
            return  # Its time is over.
        entry = json.loads(kept)
        if call.label in entry["seen"] or _ORDER.index(call.hook.type) < entry["moment"]:
            return  # Sent again: its request has been here.
        call.state_id, call.seen = state_id, entry["seen"]
        call.take_state(entry["state"])


class StatefulCall(TykCall):
    """A Dispatch whose `state` is its request's."""

    __slots__ = ("_states", "seen", "state_id")

    def __init__(
        self, hook: Hook, message: Object, payload: bytes, *, full_reply: bool, states: RequestStates
    ) -> None:
        super().__init__(hook, message, payload, full_reply=full_reply)
        self._states = states
        #: Empty until the request has one.
        self.state_id = ""
        #: The labels of the hooks that have had the state.
        self.seen: list[str] = []

    @property
    def label(self) -> str:
        return f"{self.hook_type} {self.hook_name}"

    def take_state(self, values: dict[str, Any]) -> None:
        self._state = State(**values)

    def run(self) -> bytes:
        try:
            self._states.load(self)
            reply = super().run()
            self._states.save(self)
        except StoreError as error:
            raise self._without_store(error) from error
        return reply

    async def run_async(self) -> bytes:
        try:
            await self._states.load_async(self)
            reply = await super().run_async()
            await self._states.save_async(self)
        except StoreError as error:
            raise self._without_store(error) from error
        return reply

    def _without_store(self, error: StoreError) -> HandlerFailed:
        what = f'{self.hook_type} hook "{self.hook_name}": the state of its request cannot be had'
        return HandlerFailed(f"{what}: {text_of(error)}")

    def finish(self) -> bytes:
        if not self.state_id:
            self.state_id = secrets.token_urlsafe(16)
            # In place of one that a client made up, too. After a Response hook, nobody reads it.
            if self.hook.type is not HookType.Response:
                self.request.headers[HEADER] = self._states.signed(self, self.state_id)
        return super().finish()


def _kept(call: StatefulCall) -> str:
    values = vars(call.state)
    entry = {"seen": [*call.seen, call.label], "moment": _ORDER.index(call.hook.type), "state": values}
    try:
        text = json.dumps(entry)
    except (TypeError, ValueError) as error:
        raise HandlerFailed(
            f'{call.hook_type} hook "{call.hook_name}" left in the state what cannot be kept: '
            f"{text_of(error)}. Expected: values of JSON"
        ) from None
    if len(text) > MAX_STATE_BYTES:
        raise HandlerFailed(
            f'{call.hook_type} hook "{call.hook_name}" left a state of {len(text)} bytes. Expected: at most '
            f"{MAX_STATE_BYTES}, as JSON"
        )
    return text


#: Of the moments of a request.
_ORDER = (HookType.Pre, HookType.CustomKeyCheck, HookType.PostKeyAuth, HookType.Post, HookType.Response)


_KEY_OF_ALL = f"{KEY_PREFIX}key"
