"""One stream of ext_proc: which replies follow Envoy's messages. No I/O.

`take` gives the steps for a message, which ask for calls; when they are through, or pause, `replies` gives
what is to be sent. Envoy lets a request pass where a stream ends with OK, so whoever drives this ends it so
only after `is_done`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from coprocess.api.held import HeldResponse
from coprocess.errors import BadMessage, CoprocessError, HandlerFailed, Status
from coprocess.gateways.envoy import encoding, guard
from coprocess.gateways.envoy.call import Around, Traffic
from coprocess.gateways.envoy.chain import Chain
from coprocess.gateways.envoy.headers_only import HeadersOnly
from coprocess.gateways.envoy.messages import (
    NO_HEADERS,
    Fields,
    content_length,
    no_request,
    refuse_too_many,
    request_of,
    response_of,
)
from coprocess.gateways.envoy.overrides import envoys_own, is_of_the_upstream, never
from coprocess.gateways.envoy.pieces import NO_REQUEST, Wire, over
from coprocess.gateways.envoy.side import (
    BUFFERED,
    BUFFERED_PARTIAL,
    FULL_DUPLEX,
    NONE,
    Replies,
    RequestSide,
    ResponseSide,
    Side,
)
from coprocess.gateways.envoy.streamed_bodies import NO_OVERRIDE, SEND, StreamedBodies
from coprocess.gateways.envoy.wire import ProcessingRequest
from coprocess.runtime.answers import Answer, error_answer, failure_answer
from coprocess.runtime.chained import NO_STEPS, Steps

if TYPE_CHECKING:
    from coprocess.gateways.envoy.wire import HttpBody, HttpHeaders

NO_HEADERS_SENT = "was not sent the request's headers: expected request_header_mode SEND"
#: Whatever is answered: handlers that run would seem to refuse, and all would pass.
IGNORED = "Envoy lets all pass, and ignores each reply: observability_mode is set in the filter"
REQUEST_HEADERS, RESPONSE_HEADERS = encoding.REQUEST_HEADERS, encoding.RESPONSE_HEADERS


class Exchange(StreamedBodies):
    """One HTTP request and its response, from the first message of a stream to its end."""

    __slots__ = (
        "_around",
        "_find_chain",
        "_kind",
        "_max_headers",
        "_ready",
        "_side",
        "_wire",
    )

    def __init__(
        self,
        find_chain: Callable[[ProcessingRequest], Chain],
        around: Around,
        max_body_bytes: int,
        max_headers: int = 1000,
    ) -> None:
        """`find_chain` is called with the first message, and raises CoprocessError."""
        # Not by the base classes', as each stream makes one.
        self.is_done = self._is_answered = self._is_session_told = False
        self._told_metadata: dict[str, str] | None = None
        self._request = RequestSide()
        self._response: ResponseSide | None = None
        self._response_mode = NONE
        self._find_chain = find_chain
        self._around = around
        self._max_body_bytes = max_body_bytes
        self._max_headers = max_headers
        self.chain: Chain | None = None
        self._overrides = None
        self._traffic: Traffic | None = None
        self._method = ""
        self._status = 0
        self._wire: Wire | None = None
        #: What the last message was of, and its kind; or the replies to it, where nothing is to be run.
        self._side: Side = self._request
        self._kind = 0
        self._ready: Replies | None = None

    def take(self, message: bytes, wire: Wire | None = None) -> Steps:
        """The steps for one message. They raise CoprocessError, and so does this: see `refusal`.

        `wire` is for bodies in pieces, while a handler runs.
        """
        try:
            asked = ProcessingRequest.FromString(message)
        except DecodeError:
            raise BadMessage(NO_REQUEST) from None
        kind = asked.WhichOneof("request")
        chain, traffic = self.chain, self._traffic
        if chain is None:
            chain = self._begin(asked, wire)
        if kind == "request_headers":
            if traffic is not None:
                raise BadMessage("request headers that are not the first: a stream has one request")
            return self._on_request_headers(asked, chain)
        if traffic is None:
            # It begins with the response: one that another filter gave, say. There is no request to be seen.
            traffic = self._traffic = Traffic(no_request(), chain, self._around)
            if (context := asked.metadata_context).filter_metadata:
                self._read_metadata(context, traffic)
            if chain.before and self._has_passed(asked, kind):
                raise HandlerFailed(NO_HEADERS_SENT)
        if kind == "response_headers":
            if self._response is not None:
                raise BadMessage("response headers twice: a stream has one response")
            return self._on_response_headers(asked.response_headers, chain, traffic)
        if kind == "request_body":
            return self._on_body(self._request, asked.request_body)
        if kind == "request_trailers":
            return self._on_trailers(self._request)
        if kind in ("response_body", "response_trailers") and chain.after and self._response is None:
            raise HandlerFailed("was not sent the response's headers: expected response_header_mode SEND")
        if kind == "response_body":
            return self._on_body(self._of_response(), asked.response_body)
        if kind == "response_trailers":
            return self._on_trailers(self._of_response())
        raise BadMessage("a ProcessingRequest without a phase that is known")

    def replies(self) -> Replies:
        """What answers the message, once its steps are through, or pause. Raises as `take`."""
        ready = self._ready
        if ready is not None:
            self._ready = None
            return ready
        side, traffic = self._side, self._traffic
        if side.fields.is_broken:
            raise BadMessage(NO_HEADERS)
        assert traffic is not None  # noqa: S101 - its steps have run
        if side.steps is not None:
            if traffic.awaits_body and traffic.answer is None:
                return self._ask_for_body(side)
            side.steps = None
        is_request = side is self._request
        replies = self._end_request(traffic, side) if is_request else self._end_response(traffic, side)
        if side.ends_with_trailers and not self._is_answered:
            replies.append(encoding.EMPTY[side.trailers_kind])
        return replies

    def _has_passed(self, first: ProcessingRequest, kind: str | None) -> bool:
        """Whether a stream that begins so has a request that its handlers were to see, and did not."""
        if kind != "response_headers":
            return kind in ("request_body", "request_trailers")
        fields = self._fields(first.response_headers)
        return is_of_the_upstream(response_of(fields, bytes).status, fields)

    def _begin(self, first: ProcessingRequest, wire: Wire | None) -> Chain:
        chain = self.chain = self._find_chain(first)
        if first.observability_mode:
            raise BadMessage(IGNORED)
        if chain.streams:
            self._wire = wire
        config = first.protocol_config
        if (mode := config.request_body_mode) != NONE:
            self._request.mode = mode
        if (mode := config.response_body_mode) != NONE:
            self._response_mode = mode
        self._overrides = chain.overrides_of(self._request.mode, self._response_mode)
        is_duplex = FULL_DUPLEX in (self._request.mode, self._response_mode)
        if is_duplex or config.send_body_without_waiting_for_header_response:
            self._overrides = never()  # Envoy takes no override then, on either side.
        return chain

    def go_on_from(self, before: HeadersOnly) -> None:
        """Take over a stream, where its next message is to be taken, or the last one to be answered."""
        self.chain, self._traffic, self._method = before.chain, before, before.method
        self._is_session_told = before.is_session_told
        self._request.mode, self._response_mode, _ = before.beside
        self._overrides = before.chain.overrides_of(self._request.mode, self._response_mode)
        self._request.begin(before.came, is_whole=before.is_whole)
        self._kind = REQUEST_HEADERS
        if before.response_came is not None:
            self._status, self._kind = before.status, RESPONSE_HEADERS
            self._side = self._of_response()
            self._side.begin(before.response_came, is_whole=before.is_response_whole)
            self._side.is_tunnel = guard.is_tunnel(self._method, self._status)

    def let_go(self) -> None:
        """At the end: of what a body in pieces has, as it knows this."""
        traffic = self._traffic
        if self._wire is None or traffic is None:
            return
        for message in (traffic.request, traffic.response):
            if message is not None and message.open_stream is not None:
                message.open_stream = over
        for side in (self._request, self._response):
            if side is not None:
                side.stream = None

    def _of_response(self) -> ResponseSide:
        side = self._response
        if side is None:
            side = self._response = ResponseSide(self._response_mode)
        return side

    def refusal(self, error: Exception) -> bytes:
        """The reply where a message cannot be taken: it closes, whatever Envoy's failure mode is."""
        self.is_done = True
        if not isinstance(error, CoprocessError):
            return self._immediate(failure_answer(Status.INTERNAL), "internal error")
        return self._immediate(failure_answer(error.status), str(error))

    def _fields(self, headers: HttpHeaders) -> Fields:
        values = headers.headers.headers
        refuse_too_many(len(values), self._max_headers)
        return Fields(values)

    @property
    def owes_reply(self) -> bool:
        """Whether a message has none yet, as more of a body is to come in FULL_DUPLEX_STREAMED mode."""
        response = self._response
        is_open = self._request.pieces is not None or (response is not None and response.pieces is not None)
        return is_open and not self.is_done

    @property
    def traffic(self) -> Traffic | None:
        """None: no request, or response, has come."""
        return self._traffic

    # The request.

    def _on_request_headers(self, asked: ProcessingRequest, chain: Chain) -> Steps:
        headers: HttpHeaders = asked.request_headers
        side = self._request
        fields = self._fields(headers)
        side.begin(fields, is_whole=headers.end_of_stream)
        request = request_of(fields, side.read)
        self._method = request.method
        traffic = self._traffic = Traffic(request, chain, self._around)
        if (context := asked.metadata_context).filter_metadata:
            self._read_metadata(context, traffic)
        if self._wire is not None:
            request.open_stream = partial(self._open_stream, side, self._wire, self._begin_request)
        self._kind = REQUEST_HEADERS
        steps = traffic.before_upstream()
        if chain.reads_request:
            if side.body is not None or side.why_no_body:
                traffic.has_body = True
            elif (size := content_length(fields) or 0) > self._max_body_bytes:
                self._ready = [self._too_large(side, size)]
                return NO_STEPS
            side.steps = steps
        return steps

    def _ask_for_body(self, side: Side) -> Replies:
        assert self.chain is not None  # noqa: S101 - `take` has seen to it
        chain = self.chain
        if side.mode == FULL_DUPLEX:
            side.want_pieces()
            return []  # It comes of itself. The headers' reply waits for it, as edits would be dropped later.
        if side.mode != BUFFERED:
            self._check_whole(side)
            self._check_override()
            side.is_override = True
        # Trailers too: where they follow no body at all, Envoy would send nothing, and go on.
        if side is self._request:
            mode = encoding.mode(
                request_body=BUFFERED,
                request_trailers=SEND,
                response_headers=SEND if chain.after else 0,
                # What is left out is NONE.
                response_body=self._response_mode,
            )
        else:
            mode = encoding.mode(response_body=BUFFERED, response_trailers=SEND)
        return [encoding.reply(side.headers_kind, b"", b"", mode)]

    def _end_request(self, traffic: Traffic, side: Side) -> Replies:
        """The replies once the moments before the upstream are through."""
        answer = traffic.answer
        if side.stream is not None and side.stream.is_cut:
            answer = self._cut(side)
        if answer is None:
            try:
                if side.stream is not None and side.stream.has_begun:
                    return self._end_pieces(side.stream, self._request_headers(traffic, side), traffic)
                return self._pass_request(traffic, side, self._kind)
            except HandlerFailed as error:
                answer = traffic.fail(error)
        return [self._answer(answer, traffic)]

    def _pass_request(self, traffic: Traffic, side: Side, kind: int) -> Replies:
        request, chain = traffic.request, traffic.chain
        edits, is_moved = guard.request_edits(request, self._method)
        if side.stream is not None and (written := side.stream.local_body) is not None:
            request.body = written
        body: bytes | None = None
        if request.has_new_body:
            body = request.raw_body
            self._check_size(body)
            if side.why_no_body:
                raise HandlerFailed(
                    "replaced a body that is not a handler's: of a gRPC call, or after an upgrade"
                )
            if not body and side.body == b"":
                body = None  # Envoy would announce one, in chunks.
        rest = encoding.CLEAR_ROUTE_CACHE if is_moved and chain.route.clears_route_cache else b""
        replies = side.replies(kind, edits, body, rest, self._dynamic_metadata(traffic))
        if not chain.after and side.mode != FULL_DUPLEX:
            self.is_done = True
        return replies

    # The response.

    def _on_response_headers(self, headers: HttpHeaders, chain: Chain, traffic: Traffic) -> Steps:
        if self._request.steps is not None:
            # Envoy went on without the body: what handlers wanted with it was not done.
            self._ready = [self._without_body(headers)]
            return NO_STEPS
        if not chain.after:
            self.is_done = True
            self._ready = [encoding.EMPTY[RESPONSE_HEADERS]]
            return NO_STEPS
        side = self._side = self._of_response()
        fields = self._fields(headers)
        response = traffic.response = response_of(fields, side.read)
        status = self._status = response.status
        is_whole = headers.end_of_stream or guard.has_no_body(self._method, status)
        side.begin(fields, is_whole=is_whole)
        side.is_tunnel = guard.is_tunnel(self._method, status)
        if self._wire is not None:
            response.open_stream = partial(self._open_stream, side, self._wire, self._begin_response)
        self._kind = RESPONSE_HEADERS
        steps = traffic.after_upstream()
        if chain.reads_response:
            traffic.has_body = side.body is not None or bool(side.why_no_body)
            traffic.awaits_body = False
            side.steps = steps
        return steps

    def _without_body(self, headers: HttpHeaders) -> bytes:
        """The reply to a response that comes before the body of its request. Raises HandlerFailed."""
        fields = self._fields(headers)
        status = response_of(fields, bytes).status
        if text := envoys_own(status, fields):
            return self._immediate(error_answer(status, text), "Envoy took no body for the handlers")
        if self._request.is_override:
            assert self._overrides is not None  # noqa: S101 - there is a chain
            self._overrides.judge(status, fields)
        raise HandlerFailed(NO_OVERRIDE)

    def _end_response(self, traffic: Traffic, side: Side) -> Replies:
        answer = traffic.answer
        if answer is None:
            try:
                if side.stream is not None and side.stream.has_begun and not traffic.is_replaced:
                    return self._end_pieces(side.stream, self._response_headers(traffic, side), traffic)
                return self._pass_response(traffic, side, self._kind)
            except HandlerFailed as error:
                answer = traffic.fail(error)
        return [self._answer(answer, traffic)]

    def _pass_response(self, traffic: Traffic, side: Side, kind: int) -> Replies:
        response = traffic.response
        assert response is not None  # noqa: S101 - its headers came
        if traffic.is_replaced:
            answer = Answer(response.status, response.headers.pairs(), response.raw_body)
            return [self._answer(answer, traffic)]
        edits = guard.response_edits(response, self._status, self._method)
        if side.stream is not None and (written := side.stream.local_body) is not None:
            response.body = written
        body: bytes | None = None
        # The client would wait for a body of the length that came, which `forward_rules` may hide.
        lacks_one = self._status in guard.ENDS_WITH_HEADERS and not guard.has_no_body(
            self._method, response.status
        )
        if self._is_bodyless(response):
            if side.body != b"":
                # Else what comes would go out: to the client it is another response.
                body, side.drops_rest = b"", True
            elif lacks_one:
                body = b""
        elif lacks_one and not response.has_new_body:
            body = b""
        elif response.has_new_body:
            body = response.raw_body
            self._check_size(body)
            if side.why_no_body:
                raise HandlerFailed("replaced the body of a response that is a stream")
            if not body and side.body == b"" and self._status not in guard.ENDS_WITH_HEADERS:
                body = None  # As of a request.
        replies = side.replies(kind, edits, body, b"", self._dynamic_metadata(traffic))
        if side.mode != FULL_DUPLEX:
            self.is_done = True
        return replies

    def _is_bodyless(self, response: HeldResponse) -> bool:
        return self._method == "HEAD" or response.status in guard.BODYLESS

    # Bodies and trailers, of either.

    def _on_body(self, side: Side, body: HttpBody) -> Steps:
        kind = side.body_kind
        content = body.body
        if side.steps is None:
            # What handlers wanted is done.
            if side.drops_rest and body.end_of_stream and self._is_last(side):
                self.is_done = True
            if side.mode == FULL_DUPLEX:
                passed = b"" if side.drops_rest else content
                self._ready = [encoding.streamed(kind, passed, body.end_of_stream)]
            elif side.drops_rest and content:
                self._ready = [encoding.reply(kind, encoding.CLEAR_BODY)]
            else:
                self._ready = [encoding.EMPTY[kind]]
            return NO_STEPS
        if side.pieces is not None:
            if not side.take_piece(content, self._max_body_bytes):
                self._ready = [self._too_large(side, side.size)]
                return NO_STEPS
            if not body.end_of_stream:
                self._ready = []
                return NO_STEPS
            return self._with_body(side, b"".join(side.pieces), side.headers_kind)
        # Without its end, a body is whole where trailers follow.
        is_part = side.mode == BUFFERED_PARTIAL and content_length(side.fields) != len(content)
        if is_part and not body.end_of_stream:
            self._ready = [self._too_large(side, len(content))]
            return NO_STEPS
        if side.is_override:
            self._judge_override(side, has_come=True)
        if len(content) > self._max_body_bytes:
            self._ready = [self._too_large(side, len(content))]
            return NO_STEPS
        return self._with_body(side, content, kind)

    def _is_last(self, side: Side) -> bool:
        return side is not self._request or self.chain is None or not self.chain.after

    def _with_body(self, side: Side, body: bytes, kind: int) -> Steps:
        """What is left, to be answered as a message of that kind."""
        side.body = body
        self._side, self._kind = side, kind
        if self._traffic is not None:
            self._traffic.has_body, self._traffic.awaits_body = True, False
        return side.steps or NO_STEPS

    def _on_trailers(self, side: Side) -> Steps:
        kind = side.trailers_kind
        if side.steps is None:
            self._ready = [encoding.EMPTY[kind]]
            return NO_STEPS
        if side.pieces is not None:
            # They end the body, in this mode.
            side.ends_with_trailers = True
            return self._with_body(side, b"".join(side.pieces), side.headers_kind)
        if side.is_override:
            self._judge_override(side, has_come=False)
        # There was no body at all.
        return self._with_body(side, b"", kind)
