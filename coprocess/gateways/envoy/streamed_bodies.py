"""What an exchange does where a handler has a body in pieces, while it passes."""

from __future__ import annotations

from collections.abc import Callable

from coprocess.errors import HandlerFailed
from coprocess.gateways.envoy import encoding, guard
from coprocess.gateways.envoy.answering import Answering
from coprocess.gateways.envoy.call import Traffic
from coprocess.gateways.envoy.chain import Chain
from coprocess.gateways.envoy.overrides import Overrides
from coprocess.gateways.envoy.pieces import Pieces, Wire
from coprocess.gateways.envoy.side import (
    BUFFERED,
    BUFFERED_PARTIAL,
    FULL_DUPLEX,
    NONE,
    STREAMED,
    Replies,
    Side,
)
from coprocess.runtime.answers import Answer

#: Body modes in which Envoy holds back the headers until the reply to the whole body, or to its start.
_KEEPS_HEADERS = frozenset({NONE, BUFFERED, BUFFERED_PARTIAL})
#: ProcessingMode.HeaderSendMode.
SEND = 1
#: So long a handler waits for a piece.
PIECE_TIMEOUT_S = 60.0
NO_OVERRIDE = (
    "reads a body, and Envoy sends none. Expected: allow_mode_override: true in the filter, and no "
    "FULL_DUPLEX_STREAMED in it; or body modes BUFFERED"
)
#: Envoy may drop the override, and send the headers on before the body has come: the upstream would have had
#: them, and of the reply to the body it takes no edits of headers. No message says which it does.
IN_PIECES = (
    "reads a whole body, and the filter says STREAMED, or another mode that sends headers on before bodies. "
    "Expected: the body mode NONE, and allow_mode_override: true; or BUFFERED"
)


class StreamedBodies(Answering):
    """A part of `Exchange`, which sets the attributes."""

    __slots__ = ("_overrides", "_status", "_traffic", "chain")

    chain: Chain | None
    #: None as `chain` is.
    _overrides: Overrides | None
    _traffic: Traffic | None
    _status: int

    def _open_stream(self, side: Side, wire: Wire, begin: Callable[[], Replies], replace: bool) -> Pieces:
        if side.why_no_body:
            raise RuntimeError(side.why_no_body)
        if side.stream is not None or not self._is_streaming(side):
            raise RuntimeError("the body passes once. Expected: one stream(), in the last handler")
        side.has_come, side.pieces_over, side.sent_headers = False, False, b""
        side.stream = Pieces(side, wire, begin, replace=replace, wait_s=PIECE_TIMEOUT_S)
        return side.stream

    def _is_streaming(self, side: Side) -> bool:
        assert self.chain is not None  # noqa: S101 - there is a message
        chain = self.chain
        steps = chain.before[-1][1] if side is self._request else chain.after
        return steps[-1].streams

    def _mode_of_pieces(self, side: Side) -> bytes:
        """What has Envoy send the body, and its trailers, if it does not so anyway. Raises HandlerFailed."""
        assert self.chain is not None  # noqa: S101 - there is a message
        if side.mode == BUFFERED_PARTIAL:
            raise HandlerFailed("asks for a body in pieces, and BUFFERED_PARTIAL sends the first part only")
        if side.mode == FULL_DUPLEX:
            return b""
        if side.mode == NONE:
            self._check_override()
            side.is_override = True
        # Trailers also where the body comes: without them, its end is not seen. Dropped, it does no harm.
        mode = side.mode or STREAMED
        if side is not self._request:
            return encoding.mode(response_body=mode, response_trailers=SEND)
        return encoding.mode(
            request_body=mode,
            request_trailers=SEND,
            response_headers=SEND if self.chain.after else 0,
            response_body=self._response_mode,
        )

    def _request_headers(self, traffic: Traffic, side: Side) -> bytes:
        """The edits of the headers, for the reply that goes before the body."""
        edits, is_moved = guard.request_edits(traffic.request, self._method)
        rest = encoding.CLEAR_ROUTE_CACHE if is_moved and traffic.chain.route.clears_route_cache else b""
        return side.headers_of_pieces(edits) + rest

    def _response_headers(self, traffic: Traffic, side: Side) -> bytes:
        assert traffic.response is not None  # noqa: S101 - its headers came
        if traffic.response.status in guard.BODYLESS:
            raise HandlerFailed("left a status that has no body, and lets one pass in pieces")
        return side.headers_of_pieces(guard.response_edits(traffic.response, self._status, self._method))

    def _begin_request(self) -> Replies:
        assert self._traffic is not None  # noqa: S101 - a handler runs
        return self._begin_pieces(self._request, self._request_headers(self._traffic, self._request))

    def _begin_response(self) -> Replies:
        assert self._traffic is not None  # noqa: S101 - a handler runs
        assert self._response is not None  # noqa: S101 - as above
        return self._begin_pieces(self._response, self._response_headers(self._traffic, self._response))

    def _begin_pieces(self, side: Side, headers: bytes) -> Replies:
        assert self._traffic is not None  # noqa: S101 - a handler runs
        mode = self._mode_of_pieces(side)
        side.sent_headers = headers
        return [encoding.reply(side.headers_kind, headers, self._dynamic_metadata(self._traffic), mode)]

    def _check_override(self) -> None:
        """Raises HandlerFailed where to ask for a body is in vain."""
        assert self._overrides is not None  # noqa: S101 - there is a message
        if self._overrides.are_dropped:
            raise HandlerFailed(NO_OVERRIDE)

    def _judge_override(self, side: Side, *, has_come: bool) -> None:
        """Envoy was asked for a body, and what came is one, or trailers. Raises HandlerFailed.

        Trailers alone end a body that is empty, or that Envoy has let pass: a filter may have them itself.
        """
        overrides = self._overrides
        assert overrides is not None  # noqa: S101 - there is a message
        if has_come:
            overrides.works = True
        elif not overrides.works:
            overrides.doubt()
            raise HandlerFailed(NO_OVERRIDE)

    def _check_whole(self, side: Side) -> None:
        """Raises HandlerFailed where handlers cannot have the whole body before its headers go on."""
        if side.mode not in _KEEPS_HEADERS:
            raise HandlerFailed(IN_PIECES)

    def is_left_waiting(self) -> bool:
        """At the end. Whether Envoy was asked for a body that has not come: it may have passed."""
        overrides = self._overrides
        if overrides is None or self._is_answered or overrides.works is not None:
            return False
        sides: tuple[Side | None, ...] = (self._request, self._response)
        is_waiting = any(side is not None and side.is_override and side.waits for side in sides)
        if is_waiting:
            overrides.doubt()
        return is_waiting

    def _end_pieces(self, stream: Pieces, headers: bytes, traffic: Traffic) -> Replies:
        side = stream.side
        if side.is_override:
            self._judge_override(side, has_come=side.has_come)
        message = traffic.request if side is self._request else traffic.response
        if headers != side.sent_headers or (message is not None and message.has_new_body):
            raise HandlerFailed("edited what was sent when the first piece of the body was asked for")
        if stream.is_waiting:
            raise HandlerFailed("gave up a piece of the body that it had asked for")
        if stream.is_replaced and message is not None and message.open_stream is None:
            # A copy of what came, as the handler failed open.
            raise HandlerFailed("failed, and had replaced a part of the body: the rest alone is no body")
        replies = stream.end()
        if stream.is_whole and (side is not self._request or not traffic.chain.after):
            self.is_done = True
        return replies

    def _cut(self, side: Side) -> Answer | None:
        """What the end of a body is that came too early: the upstream's answer counts, where it is one."""
        assert self._overrides is not None  # noqa: S101 - there is a message
        assert self._traffic is not None  # noqa: S101 - as above
        if side.is_override and not side.has_come:
            self._overrides.doubt()
            return self._traffic.fail(HandlerFailed(NO_OVERRIDE))
        self._traffic.failure_text = ""
        return None
