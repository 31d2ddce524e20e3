"""A body in pieces: what a handler asks of `stream()` becomes replies, and waits for Envoy's messages."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from google.protobuf.message import DecodeError

from coprocess.api.body_stream import BodyCut, BodyStream
from coprocess.errors import BadMessage, HandlerFailed
from coprocess.expected import wrong_type
from coprocess.gateways.envoy import encoding
from coprocess.gateways.envoy.side import BUFFERED, FULL_DUPLEX, NO_ROOM, Replies, Side
from coprocess.gateways.envoy.wire import ProcessingRequest

if TYPE_CHECKING:
    from coprocess.gateways.envoy.wire import HttpBody

#: Envoy sends an attribute that a client wrote as it came, such as `request.useragent`.
NO_REQUEST = (
    "not an envoy.service.ext_proc.v3.ProcessingRequest; an attribute that is no UTF-8 makes it none, too"
)
OVER = "the call is over: the body has passed"
#: Takes the next message; None: there will be none.
Waiter = Callable[[bytes | None], object]


class Wire(Protocol):
    """The stream, while a handler runs."""

    def send_now(self, reply: bytes) -> None:
        """Raises ConnectionError where nobody takes it."""

    def ask(self, waiter: Waiter) -> None:
        """Have `waiter` called with the next message, from any thread."""

    def give_back(self, message: bytes) -> None:
        """Take a message that was asked for as the next one."""

    def wait(self, *, begins: bool) -> None:
        """Envoy is waited for; or that ends."""

    def may_block(self) -> None:
        """As an Rpc's."""


def over(replace: bool) -> BodyStream:
    """In place of what opens it, once the stream has ended."""
    raise RuntimeError(OVER)


class Pieces(BodyStream):
    """What passes of one direction."""

    def __init__(
        self, side: Side, wire: Wire, begin: Callable[[], Replies], *, replace: bool, wait_s: float
    ) -> None:
        """`begin` gives the headers' reply, when the first piece is asked for."""
        self.side = side
        self._wire = wire
        self._begin = begin
        self.is_replaced = replace
        self._wait_s = wait_s
        self._written: list[bytes] = []
        #: A piece that has no reply.
        self._held: bytes | None = None
        self.has_begun = False
        #: All has come.
        self._is_whole = side.body is not None
        #: Trailers have come, and have no reply.
        self._owes_trailers = False
        #: The upstream has answered before that.
        self.is_cut = False
        #: A piece was asked for, and has not come.
        self.is_waiting = False

    def write(self, data: bytes) -> None:
        if not self.is_replaced:
            raise RuntimeError("this stream is only read. Expected: stream(replace=True)")
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise wrong_type("what is written to a body", "bytes", data)
        if self.side.pieces_over:
            raise RuntimeError("the call is over: nothing can be written any more")
        self._written.append(bytes(data))

    def __next__(self) -> bytes:
        while True:
            self._go_on()
            if self._is_whole:
                raise StopIteration
            came: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
            self._wire.may_block()
            self._wire.wait(begins=True)
            try:
                self._wire.ask(came.put)
                message = came.get(timeout=self._wait_s)
            except queue.Empty:
                raise self._too_slow() from None
            finally:
                self._wire.wait(begins=False)
            if piece := self._take(message):
                return piece

    async def __anext__(self) -> bytes:
        while True:
            self._go_on()
            if self._is_whole:
                raise StopAsyncIteration
            loop = asyncio.get_running_loop()
            came: asyncio.Future[bytes | None] = loop.create_future()

            self._wire.wait(begins=True)
            try:
                self._wire.ask(partial(_tell_on, loop, came))
                message = await asyncio.wait_for(came, self._wait_s)
            except TimeoutError:
                raise self._too_slow() from None
            finally:
                self._wire.wait(begins=False)
            if piece := self._take(message):
                return piece

    def _too_slow(self) -> Exception:
        return ConnectionError(f"no piece of the body came in {self._wait_s:g} s")

    def _go_on(self) -> None:
        """Answer what came before the next is asked for."""
        if self.side.pieces_over:
            raise RuntimeError(OVER)
        if self._is_whole:
            return
        if not self.has_begun:
            self.has_begun = True
            replies = self._begin()
        else:
            replies = self._replies(is_last=False)
        for reply in replies:
            self._wire.send_now(reply)
        self.is_waiting = True

    def _take(self, message: bytes | None) -> bytes:
        """The piece that came; empty where none did."""
        self.is_waiting = False
        if message is None:
            raise BodyCut("the client left before the end of the body")
        side = self.side
        try:
            asked = ProcessingRequest.FromString(message)
        except DecodeError:
            raise BadMessage(NO_REQUEST) from None
        kind = asked.WhichOneof("request")
        if kind == side.body_name:
            body: HttpBody = getattr(asked, side.body_name)
            # What Envoy has buffered is whole, also where trailers follow.
            self._is_whole = body.end_of_stream or side.mode == BUFFERED
            self._held = body.body
            side.has_come = True
            return self._held
        if kind == side.trailers_name:
            self._is_whole = self._owes_trailers = True
            return b""
        # Of the response: the upstream does not wait for the rest, or Envoy was told in vain to send a body.
        self._wire.give_back(message)
        self.is_cut = self._is_whole = True
        raise BodyCut("the upstream answered before the end of the body")

    # Replies.

    def _replies(self, *, is_last: bool) -> Replies:
        """What answers the piece that is held; in FULL_DUPLEX_STREAMED mode, what there is to be sent on."""
        side, held = self.side, self._held
        self._held = None
        if self.is_replaced:
            content = b"".join(self._written)
            self._written.clear()
        else:
            content = held or b""
        if side.mode == FULL_DUPLEX:
            if content and self._owes_trailers and not side.has_come:
                raise HandlerFailed(NO_ROOM)
            is_end = is_last and self._is_whole and not self._owes_trailers
            return [encoding.streamed(side.body_kind, content, is_end)] if content or is_end else []
        if held is None:
            if content:
                # No reply can take it now: the next piece's.
                if is_last:
                    raise HandlerFailed("wrote to a body when its last piece was on its way")
                self._written.append(content)
            return []
        if not self.is_replaced or content == held:
            return [encoding.EMPTY[side.body_kind]]
        mutation = encoding.field(3, encoding.field(1, content)) if content else encoding.CLEAR_BODY
        return [encoding.reply(side.body_kind, mutation)]

    def end(self) -> Replies:
        """The handler is through. What follows passes, or where it is replaced, is dropped."""
        side = self.side
        side.pieces_over = True
        if not self._is_whole:
            side.drops_rest = self.is_replaced
        if self.is_cut:
            return []
        replies = self._replies(is_last=True)
        if self._owes_trailers:
            replies.append(encoding.EMPTY[side.trailers_kind])
        return replies

    @property
    def local_body(self) -> bytes | None:
        """Where nothing of a body came, or was asked for: what is to be one; None: that stays so.

        Raises HandlerFailed where Envoy takes none then.
        """
        if not self._written or self.has_begun:
            return None
        if self.side.mode == FULL_DUPLEX and not self._is_whole:
            raise HandlerFailed(
                "wrote a body, and asked for no piece of the one that comes. Expected: one at least, as in "
                "FULL_DUPLEX_STREAMED Envoy takes none before"
            )
        return b"".join(self._written)

    @property
    def is_whole(self) -> bool:
        return self._is_whole


def _tell_on(
    loop: asyncio.AbstractEventLoop, came: asyncio.Future[bytes | None], message: bytes | None
) -> None:
    loop.call_soon_threadsafe(_tell, came, message)


def _tell(came: asyncio.Future[bytes | None], message: bytes | None) -> None:
    if not came.done():
        came.set_result(message)
