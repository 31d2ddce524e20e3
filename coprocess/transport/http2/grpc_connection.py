"""The calls of one connection, without I/O: which bytes begin one, and what an answer becomes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from struct import Struct
from typing import Any, Final, Protocol

from coprocess.errors import Status
from coprocess.transport.http2 import grpc_messages, grpc_wire
from coprocess.transport.http2.connection import Connection
from coprocess.transport.http2.frames import ErrorCode
from coprocess.transport.http2.grpc_messages import PREFIX_BYTES, MessageReader, OneMessage
from coprocess.transport.http2.grpc_wire import NotGrpc, Refused, Request, SentMetadata
from coprocess.transport.http2.limits import Limits
from coprocess.transport.http2.sending import NO_TRAILERS
from coprocess.transport.http2.streams import Stream


class Call(Protocol):
    """What `Method.begin` gives."""

    def cancelled(self, stream: Stream) -> None:
        """The peer gave up, or its deadline passed; perhaps after the answer was given."""


#: How a call with one message begins: its stream, what the header fields say, the message, and whether that
#: is compressed.
Begin = Callable[["GrpcConnection", Stream, Request, bytes, bool], Call]


class StreamCall(Call, Protocol):
    """What `Method.open` gives."""

    def received(self, message: bytes) -> None:
        """The next message."""

    def half_closed(self) -> None:
        """There are no more messages."""


class Timer(Protocol):
    def cancel(self) -> None: ...


@dataclass(slots=True)
class Method:
    """One of the two: `begin` takes calls with one message, once it is there; `open` those with many.

    `begin` also gets whether the message is compressed: unpacking takes time, and is left to it. Another one
    may be set at any time.
    """

    begin: Begin | None = None
    open: Callable[[GrpcConnection, Stream, Request], StreamCall] | None = None


@dataclass(slots=True)
class Service:
    """What all connections of a server have in common."""

    methods: dict[str, Method]
    limits: Limits
    #: Calls `callback` after so many seconds.
    call_later: Callable[[float, Callable[[Stream], None], Stream], Timer]
    #: By method: what says as a reply how a call has failed; of many messages, that one was refused.
    failed: Mapping[str, Callable[[Status, str], bytes]] = field(default_factory=dict)
    #: Calls whose message was too large.
    refused_calls: int = field(default=0)


class _CallRequest(Request):
    """With the method, found once for all calls with the same header fields."""

    __slots__ = ("target",)

    target: Method


class GrpcConnection:
    """Feed it with `receive`, and answer what the methods are given; all in one thread. It is a Receiver."""

    def __init__(
        self,
        service: Service,
        owner: Any,
        on_ping: Callable[[bytes], None],
        on_output: Callable[[], None],
    ) -> None:
        """`owner` is for whoever takes the calls.

        `on_ping` is told of PINGs that the peer acknowledges, and `on_output` of answers that a timer gave.
        """
        self.http = Connection(service.limits, self)
        self.receive = self.http.receive
        self._sending = self.http.sending
        self.owner = owner
        self.on_ping = on_ping
        self._on_output = on_output
        self._service = service
        self._max_bytes = service.limits.max_message_bytes
        self._max_held_bytes = service.limits.max_held_bytes
        self._max_unsent_bytes = service.limits.max_unsent_bytes
        self._max_unsent_stream_bytes = service.limits.max_unsent_stream_bytes
        #: When `drop_overdue` was called, and the last stream then, as far as their time is not over.
        self._opened: deque[tuple[float, int]] = deque()

    @property
    def kept_bytes(self) -> int:
        """Messages of calls that have not ended, and replies that were not sent."""
        return self.http.held_bytes + self._sending.unsent_bytes

    def may_keep(self, size_bytes: int) -> None:
        """Of each of the two, where that is less than the limit of a connection."""
        limits = self._service.limits
        self._max_held_bytes = min(limits.max_held_bytes, size_bytes)
        self._max_unsent_bytes = min(limits.max_unsent_bytes, size_bytes)

    def lost(self) -> None:
        """The transport is gone: nobody waits for answers any more."""
        for stream in self.http.abandon():
            if stream.call is not None:
                stream.call.cancelled(stream)
                stream.call = None  # They know each other: a cycle would be the collector's.

    def unanswered(self) -> list[Stream]:
        """Calls that were taken and have no answer; perhaps their message is still to come."""
        return [
            each
            for each in self.http.streams.values()
            if not each.is_answered and type(each.fields.request) is _CallRequest
        ]

    def drop_overdue(self, now_s: float) -> bool:
        """Give up requests whose content does not come, also those of no call; whether there were any.

        Their time runs from when this is called first. Each is looked at once, when it is over: there may be
        thousands, and who has its content then will not wait for it any more.
        """
        opened, highest = self._opened, self.http.ids.highest
        if not opened or opened[-1][1] < highest:
            opened.append((now_s, highest))
        last = 0
        while opened and now_s - opened[0][0] > self._service.limits.request_timeout_s:
            last = opened.popleft()[1]
        if not last:
            return False
        overdue = [
            each
            for each in takewhile(lambda each: each.id <= last, self.http.streams.values())
            if each.call is None and not each.remote_closed
        ]
        for stream in overdue:
            self.http.reset(stream, ErrorCode.CANCEL)
        return bool(overdue)

    def drop_unread(self) -> None:
        """Give up calls whose answers the peer does not read."""
        for stream in list(self.http.streams.values()):
            if stream.outgoing:
                self._end_for_nobody(
                    stream, Status.RESOURCE_EXHAUSTED, "the client does not read its replies"
                )

    def give_up(self, text: str) -> None:
        """End the calls that are left."""
        for stream in list(self.http.streams.values()):
            self._end_for_nobody(stream, Status.UNAVAILABLE, text)

    # Requests.

    def on_request(self, stream: Stream, data: bytes, ended: bool) -> None:
        fields = stream.fields
        request = fields.request
        if request is None:
            request = fields.request = self._parse(stream)
        if type(request) is not _CallRequest:
            if isinstance(request, Refused):
                self._refuse(stream, request)
            elif ended:
                self._answer_http(stream, request)
            return
        if request.timeout_s is not None:
            stream.timer = self._service.call_later(request.timeout_s, self._expire, stream)
        target = request.target
        length = len(data)
        if target.open is not None:
            call = stream.call = target.open(self, stream, request)
            size = length - PREFIX_BYTES
            if 0 <= size <= self._max_bytes and not ended and _PREFIX(data) == (0, size):
                # As `on_data`, in place: nearly all begin so.
                call.received(data[PREFIX_BYTES:])
                return
        elif ended and length >= PREFIX_BYTES and target.begin is not None:
            is_compressed, size = _PREFIX(data)
            http = self.http
            held_bytes = http.held_bytes + length
            if (
                not is_compressed
                and size == length - PREFIX_BYTES
                and size <= self._max_bytes
                and held_bytes <= self._max_held_bytes
            ):
                # One uncompressed message in one frame. As `_hold`, in place: nearly each call comes by.
                stream.held_bytes = length
                http.held_bytes = held_bytes
                stream.call = target.begin(self, stream, request, data[PREFIX_BYTES:], False)
                return
        if data or ended:
            self.on_data(stream, data, ended)

    def _parse(self, stream: Stream) -> Request | Refused | NotGrpc:
        try:
            request = _CallRequest(stream.fields.fields)
            target = self._service.methods.get(request.method)
            if target is None:
                raise Refused(Status.UNIMPLEMENTED, f"no method {request.method[:_MAX_SHOWN]}")
            request.target = target
            grpc_messages.check_encoding(request.encoding)
            if stream.fields.is_too_large:
                raise Refused(Status.RESOURCE_EXHAUSTED, "the metadata is larger than the limit")
        except (Refused, NotGrpc) as refused:
            # It is kept with the fields: what it knows of where it was raised would keep the stream, too.
            return refused.with_traceback(None)
        return request

    def on_data(self, stream: Stream, data: bytes, ended: bool) -> None:
        call, reader = stream.call, stream.reader
        try:
            if call is None:
                self._gather(stream, data, ended)
                return
            if reader is None or not reader.held_bytes:
                # One uncompressed message in one frame, or none: nearly all are so.
                if len(data) >= PREFIX_BYTES:
                    is_compressed, size = _PREFIX(data)
                    if not is_compressed and size == len(data) - PREFIX_BYTES and size <= self._max_bytes:
                        call.received(data[PREFIX_BYTES:])
                        if ended:
                            call.half_closed()
                        return
                elif not data and ended:
                    call.half_closed()
                    return
            self._pass_on(stream, call, data, ended)
        except Refused as refused:
            self._refuse(stream, refused)

    def _gather(self, stream: Stream, data: bytes, ended: bool) -> None:
        """The one message of a call, in pieces."""
        if stream.is_answered:
            return  # It was refused, and its answer waits for a window.
        request = stream.fields.request
        if type(request) is not _CallRequest:
            if ended:
                self._answer_http(stream, request)
            return
        reader = stream.reader
        if reader is None:
            reader = stream.reader = OneMessage(self._max_bytes)
        reader.take(data)
        self._hold(stream, reader.held_bytes)
        begin = request.target.begin
        if ended and begin is not None:
            is_compressed, message = reader.end()
            stream.call = begin(self, stream, request, message, is_compressed)

    def _pass_on(self, stream: Stream, call: StreamCall, data: bytes, ended: bool) -> None:
        """Messages one by one, whatever their pieces."""
        if stream.is_answered:
            return  # As in `_gather`.
        reader: MessageReader | None = stream.reader
        if reader is None:
            reader = stream.reader = MessageReader(self._max_bytes)
        elif not ended and reader.keep(data):
            self._hold(stream, reader.held_bytes)
            return
        self.http.take_steps(self._passing_on(stream, call, reader, data, ended))

    def _passing_on(
        self, stream: Stream, call: StreamCall, reader: MessageReader, data: bytes, ended: bool
    ) -> Iterator[None]:
        try:
            for is_compressed, message in reader.feed(data):
                self.http.count_effort(1)
                if is_compressed:
                    pieces: list[bytes] = []
                    size = 0
                    for piece in grpc_messages.unpack(
                        stream.fields.request.encoding, message, self._max_bytes
                    ):
                        pieces.append(piece)
                        size += len(piece)
                        self._hold(stream, size)
                        # It may unpack to little.
                        taken = min(len(message), grpc_messages.PIECE_BYTES)
                        self.http.count_effort(max(len(piece), taken) // _BYTES_UNPACKED_PER_STEP)
                        yield None
                        if stream.is_closed:
                            return
                    message = b"".join(pieces)
                call.received(message)
                if stream.is_closed:
                    return
            self._hold(stream, reader.held_bytes)
            if ended:
                if reader.held_bytes:
                    raise Refused(Status.INTERNAL, "the last message is not whole")
                call.half_closed()
        except Refused as refused:
            self._refuse(stream, refused)

    def on_reset(self, stream: Stream) -> None:
        if stream.call is not None:
            stream.call.cancelled(stream)
            stream.call = None  # It knows its stream, as it does where that ends well.

    def _hold(self, stream: Stream, size_bytes: int) -> None:
        """Count what is kept for a stream until it is closed."""
        http = self.http
        http.held_bytes += size_bytes - stream.held_bytes
        stream.held_bytes = size_bytes
        if http.held_bytes > self._max_held_bytes:
            raise _too_much_held()

    def hold(self, stream: Stream, size_bytes: int) -> bool:
        """The same, for who has the call. False where that is over: nothing is counted any more."""
        if stream.is_closed:
            return False
        self._hold(stream, size_bytes)
        return True

    def _refuse(self, stream: Stream, refused: Refused) -> None:
        if refused.status == Status.RESOURCE_EXHAUSTED:
            self._service.refused_calls += 1
        call = stream.call
        self._fail(stream, refused.status, refused.message)
        if call is not None:
            call.cancelled(stream)

    def _fail(self, stream: Stream, status: int, text: str) -> None:
        """End a call badly, that whoever has it does not end."""
        is_of_many = stream.call is not None and _is_of_many(stream)
        failed = self._failed_reply(stream) if is_of_many else None
        if failed is None or not self.finish(stream, failed(Status(status), text)):
            self.end(stream, status, text)

    def _failed_reply(self, stream: Stream) -> Callable[[Status, str], bytes] | None:
        """Of what its fields say, as those may be what is wrong. CONNECT has no path."""
        method = dict(stream.fields.fields).get(b":path", b"").decode("latin-1")
        return self._service.failed.get(method)

    def _answer_http(self, stream: Stream, refused: NotGrpc) -> None:
        headers, text = grpc_wire.http_response(refused.http_status, refused.text)
        sending = self._sending
        if refused.is_head:
            sending.trailers(stream, headers)
            return
        sending.headers(stream, headers)
        sending.data(stream, text)
        sending.trailers(stream, NO_TRAILERS)

    def _expire(self, stream: Stream) -> None:
        """Its deadline has passed."""
        if not stream.is_closed:
            self._end_for_nobody(stream, Status.DEADLINE_EXCEEDED, "the deadline has passed")
            self._on_output()

    def _end_for_nobody(self, stream: Stream, status: Status, text: str) -> None:
        call = stream.call
        self._fail(stream, status, text)
        if not stream.is_closed:  # Its answer waits for a client that does not read.
            self.http.reset(stream, ErrorCode.CANCEL)
        if call is not None:
            call.cancelled(stream)

    # Answers. Those of a call that has ended do nothing.

    def respond(self, stream: Stream, message: bytes) -> None:
        """The one message of a call, and its end."""
        if stream.is_answered or stream.is_closed:
            return
        sending = self._sending
        if sending.unsent_bytes > self._max_unsent_bytes:
            self.end(stream, Status.RESOURCE_EXHAUSTED, "the client does not read its replies")
            return
        stream.is_answered = True
        sending.message(stream, None if stream.has_headers_sent else _HEADERS, message, _OK)

    def begin(self, stream: Stream, metadata: SentMetadata) -> None:
        """Send the header fields, before all messages; done by `send` where it was not."""
        if not (stream.has_headers_sent or stream.is_closed or stream.is_answered):
            block = grpc_wire.response_headers(metadata)
            stream.has_headers_sent = True
            self._sending.headers(stream, block)

    def send(self, stream: Stream, message: bytes) -> bool:
        """One of many messages. False where the call is over, or its client does not read."""
        # One goes out in any case, however large.
        if stream.is_answered or stream.is_closed or stream.unsent_bytes >= self._max_unsent_stream_bytes:
            return False
        headers = None
        if not stream.has_headers_sent:
            stream.has_headers_sent, headers = True, _HEADERS
        self._sending.message(stream, headers, message, None)
        return True

    def finish(self, stream: Stream, message: bytes) -> bool:
        """The last of many messages, and the end of the call. False, without the end, as `send`."""
        # What waits for others of the connection is no reason to keep it back, as it is in `respond`.
        if stream.is_answered or stream.is_closed or stream.unsent_bytes >= self._max_unsent_stream_bytes:
            return False
        stream.is_answered = True
        self._sending.message(stream, None if stream.has_headers_sent else _HEADERS, message, _OK)
        return True

    def end(
        self,
        stream: Stream,
        status: int,
        message: str,
        details: bytes = b"",
        metadata: SentMetadata = (),
    ) -> None:
        """End a call with a status, after the messages that were sent. 0: all went well."""
        if stream.is_closed or stream.is_answered:
            return
        stream.is_answered = True
        # Of many messages, whoever has the call says how it ends, and what is a reply to whom.
        if status and self._service.failed and not _is_of_many(stream):
            failed = self._failed_reply(stream)
            if failed is not None:
                self._sending.message(stream, _HEADERS, failed(Status(status), message), _OK)
                return
        if stream.has_headers_sent and not (status or message or details or metadata):
            block = _OK
        else:
            block = grpc_wire.trailers(status, message, details, metadata, only=not stream.has_headers_sent)
        self._sending.trailers(stream, block)

    def end_with(self, stream: Stream, ending: tuple[int, str, bytes, SentMetadata]) -> None:
        """The same, as whoever has the call ends it."""
        self.end(stream, *ending)


def _is_of_many(stream: Stream) -> bool:
    """Whether its method is one with many messages."""
    request = stream.fields.request
    return type(request) is _CallRequest and request.target.open is not None


def _too_much_held() -> Refused:
    return Refused(Status.RESOURCE_EXHAUSTED, "the calls of this connection are too large together")


_MAX_SHOWN: Final = 200
#: In the time that another message takes.
_BYTES_UNPACKED_PER_STEP: Final = 2048
# Of this module: each call looks for them.
_HEADERS, _OK = grpc_wire.RESPONSE_HEADERS, grpc_wire.OK_TRAILERS
#: The compressed-flag and the length.
_PREFIX = Struct(">BL").unpack_from
