"""One Dispatch on its way: from the Object, over the handler, to the reply."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mypy_extensions import mypyc_attr

from coprocess.api.http import MultiHeaders
from coprocess.api.messages import Reject, Reply
from coprocess.api.moments import HookType
from coprocess.errors import BadBody, HandlerFailed, raise_from
from coprocess.gateways.tyk import guard
from coprocess.gateways.tyk.request import TykRequest
from coprocess.gateways.tyk.response import TykResponse, set_body
from coprocess.gateways.tyk.session import TextMap, TykSession, TykSpec
from coprocess.gateways.tyk.wire import EventReply, Object
from coprocess.loading.hooks import Hook
from coprocess.runtime.call import Call

if TYPE_CHECKING:
    from coprocess.gateways.tyk.event import TykEvent


@mypyc_attr(allow_interpreted_subclasses=True)
class TykCall(Call):
    """A Dispatch. Its attributes are what handlers may ask for."""

    __slots__ = (
        "_full_reply",
        "_is_trimmed",
        "_request",
        "_response",
        "_session",
        "message",
        "passed_raw",
        "payload",
    )

    def __init__(self, hook: Hook, message: Object, payload: bytes, *, full_reply: bool) -> None:
        self.hook = hook
        self.message = message
        #: What came, for comparison with what a handler left.
        self.payload = payload
        #: Whether the handler was passed the messages themselves, and not the views.
        self.passed_raw = False
        self._full_reply = full_reply
        self._is_trimmed = False
        self._request: TykRequest | None = None
        self._response: TykResponse | None = None
        self._session: TykSession | None = None

    @property
    def was_edited_raw(self) -> bool:
        """Whether the messages may hold edits that the views did not make."""
        if self.passed_raw:
            return True
        request, response = self._request, self._response
        return (request is not None and request.was_edited_raw) or (
            response is not None and response.was_edited_raw
        )

    @property
    def api_id(self) -> str:
        return self.message.spec.get("APIID") or self._that_came("APIID")

    @property
    def org_id(self) -> str:
        return self.message.spec.get("OrgID") or self._that_came("OrgID")

    def _that_came(self, key: str) -> str:
        """Of the spec: the reply, which is made of the same message, has none. Who asks late is told, too."""
        return Object.FromString(self.payload).spec.get(key, "") if self._is_trimmed else ""

    @property
    def request_headers(self) -> Mapping[str, str]:
        return self.message.request.headers

    @property
    def request(self) -> TykRequest:
        if self._request is None:
            self._request = TykRequest(self.message.request)
        return self._request

    @property
    def response(self) -> TykResponse:
        if self._response is None:
            self._response = TykResponse(self.message.response)
        return self._response

    @property
    def session(self) -> TykSession:
        if self._session is None:
            self._session = TykSession(self.message)
        return self._session

    @property
    def metadata(self) -> TextMap:
        return TextMap(self.message.metadata)

    @property
    def spec(self) -> TykSpec:
        return TykSpec(self.message.spec)

    def reply(self, reply: Reply) -> None:
        if not 200 <= reply.status <= 999:
            raise HandlerFailed(f"responded with status {reply.status}: expected 200 to 999")
        if self.hook.type is HookType.Response:
            response = self.message.response
            response.status_code = reply.status
            set_body(response, reply.body)
            headers = self.response.headers
            headers.clear()
            for name, value in reply.headers.pairs():
                headers.add(name, value)
            return
        overrides = self.message.request.return_overrides
        overrides.Clear()
        overrides.response_code = reply.status
        try:
            overrides.response_body = reply.body.decode()
        except UnicodeDecodeError:
            raise_from(
                HandlerFailed("responded with bytes that are not UTF-8: this gateway takes text only"), None
            )
        # Without it the gateway would wrap the body of an error as JSON, and fire AuthFailure.
        overrides.override_error = reply.status >= 400
        overrides.headers.update(_single_values(reply.headers.pairs()))

    def reject(self, reject: Reject) -> None:
        if self.hook.type is HookType.Response:
            # The gateway reads no overrides here, so its own error is made by hand.
            self.reply(_error_reply(reject.status, reject.message, reject.headers))
            return
        overrides = self.message.request.return_overrides
        overrides.Clear()
        overrides.response_code = reject.status
        overrides.response_error = reject.message
        overrides.headers.update(_single_values(reject.headers.pairs()))

    def refuse_body(self, error: BadBody) -> None:
        if self.hook.type is HookType.Response:
            # The client has done nothing wrong, or the upstream has acted on it: not its error.
            raise error
        # Not rejected: that would fire AuthFailure.
        self.reply(_error_reply(error.http_status, str(error)))

    def finish(self) -> bytes:
        guard.check(self)
        if not self._full_reply:
            guard.trim(self.message, self.hook.type)
            self._is_trimmed = True
        return self.message.SerializeToString()

    def unchanged(self) -> bytes:
        """The reply that changes nothing, whatever the handler did."""
        message = Object.FromString(self.payload)
        return TykCall(self.hook, message, self.payload, full_reply=self._full_reply).finish()

    def refused(self, status: int, message: str, headers: Iterable[tuple[str, str]] = ()) -> bytes:
        """The reply that refuses the request, whatever the handler did."""
        call = TykCall(self.hook, Object.FromString(self.payload), self.payload, full_reply=self._full_reply)
        reply = _error_reply(status, message)
        for name, value in headers:
            reply.headers[name] = value
        call.reply(reply)
        return call.finish()


@mypyc_attr(allow_interpreted_subclasses=True)
class TykEventCall(Call):
    """A DispatchEvent. Nothing is read back from it."""

    __slots__ = ("event",)

    def __init__(self, hook: Hook, event: TykEvent) -> None:
        self.hook = hook
        self.event = event

    @property
    def api_id(self) -> str:
        return self.event.api_id

    @property
    def org_id(self) -> str:
        return self.event.org_id

    @property
    def spec(self) -> TykSpec:
        return TykSpec(self.event.spec_texts)

    def reply(self, reply: Reply) -> None:
        raise HandlerFailed("responded to an event: nobody waits for it")

    def reject(self, reject: Reject) -> None:
        raise_from(HandlerFailed("rejected an event: nobody waits for it"), reject)

    def finish(self) -> bytes:
        return _EVENT_REPLY


_EVENT_REPLY = EventReply().SerializeToString()


def _error_reply(status: int, message: str, headers: MultiHeaders | None = None) -> Reply:
    """An error as the gateway words its own."""
    reply = Reply(status, json.dumps({"error": message}, indent=4).encode(), headers or MultiHeaders())
    reply.headers["Content-Type"] = "application/json"
    return reply


def _single_values(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    values: dict[str, str] = {}
    for name, value in pairs:
        if name == "Set-Cookie" and name in values:
            raise HandlerFailed("responded with several Set-Cookie headers: this gateway takes one here")
        values[name] = f"{values[name]}, {value}" if name in values else value
    return values
