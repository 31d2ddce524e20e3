"""A stream whose handlers want headers, and no body: what most are, and the shortest way for them. No I/O.

Each message is answered at once, and most handlers leave a header or nothing. Where there is more to it, an
`Exchange` takes over, before a message or before a reply, and has the stream from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from coprocess.gateways.envoy import dynamic_metadata, encoding, guard
from coprocess.gateways.envoy.call import Around, EnvoyCall, Traffic
from coprocess.gateways.envoy.chain import Chain
from coprocess.gateways.envoy.header_messages import (
    REQUEST,
    RESPONSE,
    Beside,
    has_path,
    header_message,
    method_in,
    status_in,
)
from coprocess.gateways.envoy.headers_seen import request_of_headers, response_of_headers
from coprocess.gateways.envoy.messages import UnreadFields
from coprocess.loading.hooks import Hook

#: The chain of a stream, by the name of its route as its first message tells it. Raises CoprocessError.
ChainOfRoute = Callable[[str], Chain]


class HeadersOnly(Traffic):
    """Its request, and its response, once that has come."""

    __slots__ = (
        "begun",
        "beside",
        "came",
        "hooks",
        "is_last",
        "is_response_whole",
        "is_session_told",
        "is_whole",
        "response_came",
        "status",
    )

    beside: Beside
    #: Of the request: its fields, and whether no body follows.
    came: UnreadFields
    is_whole: bool
    #: The same of the response; None: nothing of it has come.
    response_came: UnreadFields | None
    is_response_whole: bool
    #: As it came.
    status: int
    #: Whether Envoy was told who calls.
    is_session_told: bool
    #: Whether the stream needs no more than the reply that is owed.
    is_last: bool
    #: What is still to be run; None: that is for steps to say.
    hooks: Iterator[Hook] | None
    #: The call that has begun last, and may run still.
    begun: EnvoyCall | None

    def take_response(self, message: bytes, max_headers: int) -> bool:
        """False: it is none, or not as most are. Raises CoprocessError."""
        if self.response_came is not None:
            return False
        found = header_message(message, RESPONSE)
        if found is None:
            return False
        header_map, ends, _ = found
        status = status_in(header_map)
        if status is None:
            return False
        fields = UnreadFields(header_map, max_headers)
        is_whole = ends or guard.has_no_body(self.method, status)
        response = response_of_headers(status, fields, is_whole)
        self.response_came, self.status, self.is_response_whole = fields, status, is_whole
        self.response, self.is_last = response, True
        after = self.chain.plain_after
        self.hooks = None if after is None else iter(after)
        return True

    def reply(self) -> bytes | None:
        """The reply once the handlers of a message are through. None: there is more to it.

        Raises for what cannot go out.
        """
        if self.answer is not None or self._metadata is not None or self.is_replaced:
            return None
        fields = self.response_came
        if fields is None:
            request = self.request
            if (
                self.came.is_broken
                or request.has_new_body
                or request.has_new_path
                or request.has_new_query
                or request._method != self.method
            ):
                return None
            reply = guard.small_reply(encoding.REQUEST_HEADERS, request._headers)
        else:
            response = self.response
            if (
                fields.is_broken
                or response is None
                or response.has_new_body
                or response._status != self.status
                or (self.status in guard.BODYLESS and not self.is_response_whole)
            ):
                return None
            reply = guard.small_reply(encoding.RESPONSE_HEADERS, response._headers)
        session = self._session
        if session is None or self.is_session_told or reply is None or not session:
            return reply
        metadata = dynamic_metadata.encoded(None, {}, session, is_new=True)
        self.is_session_told = True
        return reply + encoding.metadata(metadata)


class Finding(Protocol):
    """A stream that has not begun."""

    chain: Chain | None
    chain_of_route: ChainOfRoute


def headers_only(message: bytes, stream: Finding, around: Around, max_headers: int) -> HeadersOnly | None:
    """What the first message of a stream begins, whose chain is found so.

    None: an Exchange is to take it. Raises CoprocessError.
    """
    found = header_message(message, REQUEST)
    if found is None:
        return None
    header_map, is_whole, beside = found
    chain = stream.chain = stream.chain_of_route(beside.route_name)
    method = method_in(header_map)
    if method is None or not chain.wants_headers_only or not has_path(header_map):
        return None
    fields = UnreadFields(header_map, max_headers)
    request = request_of_headers(method, fields, is_whole)
    traffic = HeadersOnly(request, chain, around)
    traffic.method, traffic.came, traffic.is_whole, traffic.beside = method, fields, is_whole, beside
    traffic.response_came = traffic.begun = None
    traffic.is_last, traffic.is_session_told = not chain.after, False
    before = chain.plain_before
    traffic.hooks = None if before is None else iter(before)
    return traffic
