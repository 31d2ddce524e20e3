"""The reply guard: whatever a handler did, the reply is one that the gateway can take.

What the gateway does with a reply, and which replies make it fail, is in the design notes and in the
recordings of a real one; each rule here names its case.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from coprocess.api.http import canonical_name, header_name, header_value, is_token
from coprocess.api.moments import HookType
from coprocess.errors import ADMITS_NOBODY, HandlerFailed, raise_from
from coprocess.gateways.tyk import request, response
from coprocess.gateways.tyk.wire import Object

if TYPE_CHECKING:
    from coprocess.gateways.tyk.call import TykCall
    from coprocess.gateways.tyk.wire import MiniRequestObject, ResponseObject

# Below, the gateway sends an interim answer, and then 200, whatever was meant.
_LOWEST_STATUS, _HIGHEST_STATUS = 200, 999
_RESPONSE, _KEY_CHECK = HookType.Response, HookType.CustomKeyCheck
# What the gateway sends.
_NO_OVERRIDE = -1
_FRAMING = frozenset({"Content-Length", "Transfer-Encoding"})


def check(call: TykCall) -> None:
    """Mend the call's message where its meaning is plain; raise HandlerFailed where it is not."""
    message = call.message
    if call.hook.type is _RESPONSE:
        _check_response(call, message)
        return
    edited = message.request
    # The views take nothing that would have to be looked at again.
    edited_raw = call.was_edited_raw
    if edited_raw:
        _check_raw_edits(call, edited)
    overrides = edited.return_overrides
    code = overrides.response_code
    if code <= 0 and call.hook.type is _KEY_CHECK:
        _check_caller(message)
    if code == _NO_OVERRIDE:
        return
    # At most 0 is no override either: the gateway ignores the whole block.
    if 0 < code < _LOWEST_STATUS or code > _HIGHEST_STATUS:
        raise HandlerFailed(f"set response_code to {code}: expected an HTTP status from 200 on, or none")
    if code > 0 and overrides.headers:
        if edited_raw:
            _check_headers(overrides.headers)
        if edited.method != "HEAD":
            _leave_framing(overrides.headers)
    # Also makes the request present: without either, the gateway panics (reply_without_request).
    overrides.SetInParent()


def _check_caller(message: Object) -> None:
    """The gateway takes a token without a session for nobody's, and says so to nobody."""
    if not message.HasField("session") and message.metadata.get("token"):
        raise HandlerFailed(ADMITS_NOBODY)


def _check_raw_edits(call: TykCall, edited: MiniRequestObject) -> None:
    _agree_on_request_body(call, edited)
    _check_headers(edited.set_headers)
    url = edited.url
    if not url or not edited.method:
        # A new object in place of the one that came (url_empty): what it does not say stays.
        original = _original(call).request
        edited.url = url = url or original.url
        edited.method = edited.method or original.method
    if url and not request.is_acceptable_url(url):
        raise HandlerFailed(f"set the URL to {url!r}: expected a leading slash, or an absolute URL")
    if edited.method and not is_token(edited.method):
        raise HandlerFailed(f"set the method to {edited.method!r}: expected a word such as GET")


def _check_response(call: TykCall, message: Object) -> None:
    if not message.HasField("response"):
        # Only a call that never had one; the gateway answers 500 where a reply has none.
        message.response.SetInParent()
    edited = message.response
    if call.was_edited_raw:
        original = _original(call).response
        _agree_on_response_body(edited, original)
        response.reconcile_headers(edited, original)
        _check_new_values(edited, original)
    if edited.status_code == 0:
        # The gateway drops the connection (resp_status_zero).
        edited.status_code = _original(call).response.status_code
    code = edited.status_code
    if not _LOWEST_STATUS <= code <= _HIGHEST_STATUS and not 100 <= code == _came_with(call):
        raise HandlerFailed(f"set status_code to {code}: expected an HTTP status, 200 to 999")
    message.request.return_overrides.SetInParent()


def _came_with(call: TykCall) -> int:
    return _original(call).response.status_code


def _check_headers(headers: Mapping[str, str]) -> None:
    """Refuse what HTTP does not allow: a line break would let a client write headers of its own."""
    seen: dict[str, str] = {}
    for name in headers:  # .items() takes twice as long: it is Mapping's own.
        value = headers.get(name, "")
        canonical = _checked(name, value)
        if seen.setdefault(canonical, value) != value:
            # The gateway takes either, by chance.
            raise HandlerFailed(f"set the header {canonical} twice, in two spellings, to different values")


def _checked(name: str, value: str) -> str:
    try:
        header_value(name, value)
        return header_name(name)
    except ValueError as error:
        raise_from(HandlerFailed(f"set a header that cannot be sent: {error}"), None)


def _check_new_values(edited: ResponseObject, original: ResponseObject) -> None:
    """As `_check_headers`, of a response: what the upstream sent is its own."""
    before = response.multivalues(original)
    for name, values in response.multivalues(edited).items():
        came = before.get(name, ())
        for value in values:
            if value not in came:
                _checked(name, value)


def _leave_framing(headers: MutableMapping[str, str]) -> None:
    """The gateway frames the body. A length that is another's would have it send none of it."""
    for name in [name for name in headers if canonical_name(name) in _FRAMING]:
        del headers[name]


def _agree_on_request_body(call: TykCall, edited: MiniRequestObject) -> None:
    if edited.body.encode() == edited.raw_body:
        if edited.raw_body or (edited.url and edited.request_uri):
            return
        # A new object that speaks of no body; a handler that empties one leaves the rest.
        original = _original(call).request
        if edited.url and edited.request_uri == original.request_uri:
            return
        edited.body, edited.raw_body = original.body, original.raw_body
        return
    original = _original(call).request
    if edited.body != original.body or edited.raw_body != original.raw_body:
        request.set_body(edited, _edited_body(edited, original))


def _agree_on_response_body(edited: ResponseObject, original: ResponseObject) -> None:
    if edited.body.encode() == edited.raw_body:
        if not edited.raw_body and edited.status_code == 0:
            edited.body, edited.raw_body = original.body, original.raw_body
        return
    if edited.body != original.body or edited.raw_body != original.raw_body:
        response.set_body(edited, _edited_body(edited, original))


def _edited_body(
    edited: MiniRequestObject | ResponseObject, original: MiniRequestObject | ResponseObject
) -> bytes:
    # The gateway reads raw_body only: an edit of body alone would be lost (body_only_is_ignored).
    text_was_set = bool(edited.body) and edited.body != original.body
    if edited.raw_body != original.raw_body and (edited.raw_body or not text_was_set):
        return edited.raw_body
    return edited.body.encode() if edited.body != original.body else edited.raw_body


def _original(call: TykCall) -> Object:
    return Object.FromString(call.payload)


def trim(message: Object, hook_type: HookType) -> None:
    """Leave in the reply what the gateway reads; the body, above all, does not travel twice.

    Fields that we do not know stay.
    """
    # One after the other: a loop over names takes half as much time again, and this is done for each call.
    # What the gateway never sends is left out (extended_params; a session before authentication).
    clear: Any = message.ClearField
    clear("hook_type")
    clear("hook_name")
    clear("spec")
    if hook_type in _WITHOUT_SESSION:
        clear("session")
        clear("metadata")
    if hook_type is _RESPONSE:
        clear("request")
        # headers stays: the gateway compares it with what it sent.
        message.response.ClearField("body")
        return
    clear = message.request.ClearField
    clear("headers")
    clear("body")
    clear("params")
    clear("request_uri")
    clear("scheme")


_WITHOUT_SESSION = frozenset((HookType.PostKeyAuth, HookType.Post, _RESPONSE))
