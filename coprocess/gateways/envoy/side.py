"""One direction of a stream: the request, or the response, as far as it has come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from coprocess.errors import HandlerFailed
from coprocess.gateways.envoy import encoding, guard
from coprocess.gateways.envoy.messages import Fields

if TYPE_CHECKING:
    from coprocess.gateways.envoy.pieces import Pieces
    from coprocess.runtime.chained import Steps

Replies = list[bytes]

# ProcessingMode's values.
NONE, STREAMED, BUFFERED, BUFFERED_PARTIAL, FULL_DUPLEX = range(5)


class Side:
    """What derives from it says which."""

    __slots__ = (
        "body",
        "drops_rest",
        "ends_with_trailers",
        "fields",
        "has_come",
        "is_override",
        "is_tunnel",
        "mode",
        "pieces",
        "pieces_over",
        "sent_headers",
        "size",
        "steps",
        "stream",
    )

    headers_kind: int
    body_kind: int
    trailers_kind: int
    #: As a ProcessingRequest spells them.
    body_name: Literal["request_body", "response_body"]
    trailers_name: str

    #: Of `pieces`, together.
    size: int

    # From where a handler has the body in pieces.

    #: Of the reply that went before them.
    sent_headers: bytes
    #: Whether one has come; and whether the handler is through.
    has_come: bool
    pieces_over: bool

    def __init__(self, mode: int = NONE) -> None:
        self.fields = _NO_FIELDS
        #: As the filter has it.
        self.mode = mode
        #: What has not run yet, and waits for the body; None: all has.
        self.steps: Steps | None = None
        self.body: bytes | None = None
        #: What has come of a body in FULL_DUPLEX_STREAMED mode, while all of it is wanted.
        self.pieces: list[bytes] | None = None
        #: What a handler has of a body that passes in pieces.
        self.stream: Pieces | None = None
        self.ends_with_trailers = False
        #: Whether another mode was asked for.
        self.is_override = False
        #: Of a response: it opens what CONNECT asked for.
        self.is_tunnel = False
        #: What still comes is not sent on: a handler has replaced it.
        self.drops_rest = False

    @property
    def why_no_body(self) -> str:
        """Why no body is to be read, whether there is one or not; empty: there may be one."""
        raise NotImplementedError

    def begin(self, fields: Fields, *, is_whole: bool) -> None:
        """Its headers have come. `is_whole`: there is no body."""
        self.fields = fields
        if is_whole:
            self.body = b""

    def read(self) -> bytes:
        """The body, for a handler."""
        if self.body is None:
            raise RuntimeError(self.why_no_body or _NOT_KEPT)
        return self.body

    @property
    def waits(self) -> bool:
        """Whether handlers wait for a body of which nothing has come."""
        stream = self.stream
        return self.steps is not None or (stream is not None and stream.has_begun and not self.has_come)

    def want_pieces(self) -> None:
        """Keep what comes, until it is the whole body."""
        self.pieces, self.size = [], 0

    def take_piece(self, piece: bytes, max_bytes: int) -> bool:
        """Whether it is not too much."""
        assert self.pieces is not None  # noqa: S101 - the caller has looked
        self.pieces.append(piece)
        self.size += len(piece)
        return self.size <= max_bytes

    def headers_of_pieces(self, edits: guard.Edits) -> bytes:
        """The start of a CommonResponse. Of what passes in pieces, nobody knows the length beforehand."""
        if self.stream is not None and self.stream.is_replaced:
            # Whether one came or not: `forward_rules` may hide it.
            edits.remove(b"content-length")
        return encoding.field(2, edits.encoded()) if edits.count else b""

    def replies(
        self, kind: int, edits: guard.Edits, body: bytes | None, rest: bytes, metadata: bytes
    ) -> Replies:
        """What passes this side on, in answer to a message of that kind."""
        if body is None and self.pieces is None and kind == self.headers_kind:
            # As below: nearly all are so.
            common = encoding.field(2, edits.encoded()) + rest if edits.count else rest
            return [encoding.reply(kind, common, metadata)]
        if kind == self.trailers_kind:
            if edits.count or body is not None:
                raise HandlerFailed(NO_ROOM)
            return [encoding.EMPTY[kind]]
        common = b""
        if body is not None:
            edits.set(b"content-length", b"%d" % len(body)) if self.pieces is None else None
            if kind == self.headers_kind and self.pieces is None:
                common = encoding.REPLACE
        if edits.count:
            common += encoding.field(2, edits.encoded())
        if self.pieces is not None:
            return self._duplex_replies(common + rest, body, metadata)
        if body:
            return [encoding.reply_with_body(kind, common, body, rest, metadata)]
        if body is not None:
            common += encoding.CLEAR_BODY
        return [encoding.reply(kind, common + rest, metadata)]

    def _duplex_replies(self, common: bytes, body: bytes | None, metadata: bytes) -> Replies:
        pieces, self.pieces = self.pieces, None
        if body and self.ends_with_trailers and not pieces:
            # Envoy takes no piece where none came: it would be its own failure, which may let by.
            raise HandlerFailed(NO_ROOM)
        content = b"".join(pieces or ()) if body is None else body
        replies = [encoding.reply(self.headers_kind, common, metadata)]
        if content or not self.ends_with_trailers:
            replies.append(encoding.streamed(self.body_kind, content, not self.ends_with_trailers))
        return replies


class RequestSide(Side):
    __slots__ = ()

    headers_kind, body_kind, trailers_kind = (
        encoding.REQUEST_HEADERS,
        encoding.REQUEST_BODY,
        encoding.REQUEST_TRAILERS,
    )
    body_name, trailers_name = "request_body", "request_trailers"

    @property
    def why_no_body(self) -> str:
        fields = self.fields
        # Of what came: a handler may have edited it.
        if self.body is None and (
            fields.first_that_came("upgrade") is not None
            or (fields.first_that_came("content-type") or "").lower().startswith("application/grpc")
            or fields.first_that_came(":method") == "CONNECT"
        ):
            return "the body of a gRPC call, or after an upgrade, may never end: it is not read"
        return ""


class ResponseSide(Side):
    __slots__ = ()

    headers_kind, body_kind, trailers_kind = (
        encoding.RESPONSE_HEADERS,
        encoding.RESPONSE_BODY,
        encoding.RESPONSE_TRAILERS,
    )
    body_name, trailers_name = "response_body", "response_trailers"

    @property
    def why_no_body(self) -> str:
        content_type = (self.fields.first_that_came("content-type") or "").lower()
        if self.body is None and (
            self.is_tunnel
            or self.fields.first_that_came(":status") == _SWITCHING
            or content_type.startswith(("application/grpc", "text/event-stream"))
        ):
            return "the body of a stream of events, of gRPC, or after an upgrade, is not read"
        return ""


_SWITCHING = "101"
_NO_FIELDS = Fields(())
#: Nor its headers, but in FULL_DUPLEX_STREAMED mode.
NO_ROOM = "edited a message without a body but with trailers, where none can be put in"

_NOT_KEPT = (
    "the body was not asked for, as the code of the handler does not show that it is used. "
    "Expected: body=True in the handler's decorator"
)
