"""Replies to a Check: what handlers left goes out by the guard's rules, and no reply is empty. No I/O."""

from __future__ import annotations

import functools
from typing import Final, Protocol

from coprocess.api.held import HeldRequest
from coprocess.api.http import escaped
from coprocess.bounded import LONGEST_NAME
from coprocess.errors import CoprocessError, HandlerFailed, Status, raise_from
from coprocess.gateways.envoy import dynamic_metadata, encoding, guard
from coprocess.gateways.envoy.call import Traffic
from coprocess.gateways.envoy.dynamic_metadata import SESSION_NAMESPACE, TOKEN
from coprocess.gateways.envoy.messages import Fields
from coprocess.runtime.answers import Answer, failure_answer

#: google.rpc.Code.
_OK: Final = 0
_PERMISSION_DENIED: Final = 7
_UNAUTHENTICATED: Final = 16
_UNAUTHORIZED: Final = 401


def reply_of(traffic: Traffic) -> bytes:
    """The reply once all handlers are through."""
    answer = traffic.answer
    try:
        if answer is None:
            return _allowed(traffic)
        if traffic.is_failed:
            return denied(answer, None, traffic.failure_text)
        return denied(answer, traffic)
    except HandlerFailed as error:
        failure = error
    except UnicodeEncodeError:
        failure = HandlerFailed("left metadata, or a session, that is not UTF-8")
    return denied(traffic.fail(failure), None, traffic.failure_text)


def _allowed(traffic: Traffic) -> bytes:
    request, method = traffic.request, traffic.method
    if request.has_new_body:
        raise HandlerFailed("replaced the body: ext_authz cannot. Expected: ext_proc, for such a handler")
    replaced, query = request._headers.replaced, request._query
    has_new_line = request.has_new_path or request._method != method
    if has_new_line or (query is not None and query.is_edited) or replaced is None or len(replaced) > 1:
        return _STATUS_OK + encoding.field(_OK_RESPONSE, _edits(request, method)) + _told(traffic)
    # What most leave: a header, and who calls.
    for name, value in replaced.items():
        key = guard.handlers_name(name)
        if key is not None:
            # What `value_bytes` does for nearly all, sooner.
            is_plain = value.isascii() and value.isprintable()
            sent = value.encode() if is_plain else _text(guard.value_bytes(name, value))
            head = _kept_head_of_allowed if len(key) <= LONGEST_NAME else _head_of_allowed
            return head(key, len(sent)) + sent + _told(traffic)
    return _ALLOWED + _told(traffic)


def _edits(request: HeldRequest, method: str) -> bytes:
    """What is edited of a request, as an OkHttpResponse."""
    content, edits = b"", 0
    if request.method != method:
        content += encoding.set_text_header(b":method", guard.method_bytes(request.method, method), _HEADERS)
    if request.has_new_path or request.has_new_query:
        target = guard.target_of(request)
        content += encoding.set_text_header(b":path", _escaped(target), _HEADERS)
    headers = request.headers
    edited = headers.edited
    for name in sorted(edited) if len(edited) > 1 else edited:
        key = guard.handlers_name(name)
        if key is None:
            continue
        edits += 1
        values = headers.getall(name)
        if not values:
            content += encoding.field(_HEADERS_TO_REMOVE, key)
            continue
        # One line: of several with one name, Envoy takes the last.
        separator = _COOKIE_SEPARATOR if name == "Cookie" else b", "
        line = separator.join([guard.value_bytes(name, value) for value in values])
        content += encoding.set_text_header(key, _text(line), _HEADERS)
    if edits > guard.MAX_EDITS:
        raise HandlerFailed(f"left {edits} header edits: this gateway takes {guard.MAX_EDITS}")
    return content


def denied(answer: Answer, traffic: Traffic | None, text: str = "") -> bytes:
    """Raises HandlerFailed where `answer` cannot go out.

    `traffic` None: no metadata is told. So it is of failures: a handler that overruns may edit that still.
    """
    if guard.status(answer.status) < guard.LOWEST_REDIRECT and traffic is not None:
        _check_opens_nothing(answer.status, traffic)
    content = encoding.field(1, encoding.number_field(1, answer.status))
    for name, value in guard.answer_headers(answer.headers):
        # Without `append`: with it, Envoy drops it. Each is a line.
        content += encoding.set_text_header(name, _text(value), _HEADERS)
    if answer.status not in guard.BODYLESS and answer.body:
        content += encoding.field(3, _text(answer.body))
    status = encoding.number_field(
        1, _UNAUTHENTICATED if answer.status == _UNAUTHORIZED else _PERMISSION_DENIED
    )
    if traffic is not None:
        text = traffic.failure_text
    if text:
        status += encoding.field(2, guard.details(text).encode())
    reply = encoding.field(1, status) + encoding.field(_DENIED_RESPONSE, content)
    if traffic is None:
        return reply
    try:
        return reply + _told(traffic)
    except Exception:  # noqa: BLE001 - the denial is what matters
        return reply


def _check_opens_nothing(status: int, traffic: Traffic) -> None:
    """Raises HandlerFailed."""
    headers = traffic.request.headers
    upgrade = headers.first_that_came("upgrade") if isinstance(headers, Fields) else None
    guard.opens_nothing(status, traffic.method, upgrade)


def failed_reply(status: Status, message: str) -> bytes:
    """The reply in place of an RPC error: that would let in, where the filter's failure mode allows it."""
    return denied(failure_answer(status), None, message)


def refused(error: CoprocessError) -> bytes:
    """The reply where no handler ran."""
    return failed_reply(error.status, str(error))


class Tells(Protocol):
    def tell_refused(self, error: Exception) -> None:
        """Log, and count, that a request is refused for `error`."""


def closed(tells: Tells, error: Exception) -> bytes:
    """The same where `error` may be of this code's making: it is told, and says nothing to the client."""
    tells.tell_refused(error)
    return refused(error if isinstance(error, CoprocessError) else CoprocessError("internal error"))


def _told(traffic: Traffic) -> bytes:
    """The dynamic metadata of a reply."""
    metadata, session = traffic._metadata, traffic._session
    if session is not None:
        if not session._token:
            session = None
        elif metadata is None and not (session._alias or session._metadata or session._tags):
            token = session._token.encode()
            return _head_of_token(len(token)) + token
    if session is None and metadata is None:
        return b""
    told = dynamic_metadata.encoded(metadata, {}, session, is_new=True)
    return encoding.field(_DYNAMIC_METADATA, told) if told else b""


def _text(value: bytes) -> bytes:
    """`value`, where it is UTF-8: ext_authz takes nothing else. Raises HandlerFailed."""
    try:
        value.decode()
    except UnicodeDecodeError:
        raise_from(HandlerFailed("left bytes that are not UTF-8: ext_authz takes text only"), None)
    return value


def _escaped(target: bytes) -> bytes:
    """A path and query of which not all bytes can be sent as text."""
    try:
        target.decode()
    except UnicodeDecodeError:
        return escaped(target).encode()
    return target


# Fields of CheckResponse, and of OkHttpResponse.
_DENIED_RESPONSE: Final = 2
_OK_RESPONSE: Final = 3
_DYNAMIC_METADATA: Final = 4
#: In both answers.
_HEADERS: Final = 2
_HEADERS_TO_REMOVE: Final = 5
_COOKIE_SEPARATOR: Final = b"; "
#: CheckResponse.status, which must be there.
_STATUS_OK: Final = encoding.field(1, b"")
_ALLOWED: Final = _STATUS_OK + encoding.field(_OK_RESPONSE, b"")


def _head_of_allowed(name: bytes, size: int) -> bytes:
    """What stands before the value, of that size, in a reply that allows, and sets one header."""
    header = encoding.set_text_header(name, bytes(size), _HEADERS)
    return (_STATUS_OK + encoding.field(_OK_RESPONSE, header))[: -size or None]


_kept_head_of_allowed: Final = functools.lru_cache(maxsize=4096)(_head_of_allowed)


@functools.lru_cache(maxsize=256)
def _head_of_token(size: int) -> bytes:
    """What stands before the token, of that size, in the dynamic metadata of a caller who has only that."""
    struct = encoding.struct_of_one(SESSION_NAMESPACE, TOKEN, "-" * size)
    return encoding.field(_DYNAMIC_METADATA, struct)[: -size or None]
