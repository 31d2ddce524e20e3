"""The seam between transport and service: an engine moves bytes and knows nothing of hooks."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from asyncio import TimerHandle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from mypy_extensions import mypyc_attr

from coprocess.errors import CoprocessError, Status

if TYPE_CHECKING:
    import socket

    from coprocess.transport.http2.limits import Limits
    from coprocess.transport.http2.server import Server
    from coprocess.transport.relayed import Relay
    from coprocess.transport.tls import TlsFiles

Metadata = Sequence[tuple[str, str | bytes]]


class ListenError(CoprocessError):
    """An address cannot be listened on. The text names it and the reason."""


class HandlersLoop(Protocol):
    """An event loop in a thread of its own, which may read calls itself."""

    #: Whether calls are read on it at this moment: their first steps are to be run at once.
    is_reading: bool
    #: Called, in its thread, when it runs no more.
    on_end: list[Callable[[], None]]

    @property
    def thread_id(self) -> int | None: ...

    @property
    def current(self) -> object:
        """The task that runs at this moment, from any thread."""

    @property
    def has_tasks(self) -> bool: ...

    def call_soon(self, callback: Callable[..., object], *arguments: Any) -> bool:
        """Run `callback` on the loop, from any thread. False where it does not run any more."""

    # On the loop.

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> TimerHandle: ...

    def add_reader(self, descriptor: int, callback: Callable[[], object], /) -> None: ...

    def remove_reader(self, descriptor: int, /) -> object: ...


@mypyc_attr(allow_interpreted_subclasses=True)
class Rpc(ABC):
    """One unary call that waits for its answer. The first answer counts; later ones do nothing."""

    __slots__ = ("method", "payload")

    #: As on the wire: `/coprocess.Dispatcher/Dispatch`.
    method: str
    #: The serialized message. Of an engine that has no such, what its gateway opens calls from.
    payload: Any

    @abstractmethod
    def respond(self, reply: bytes) -> None:
        """Answer, from any thread."""

    @abstractmethod
    def fail(self, status: Status, message: str) -> None:
        """End the call with an error, from any thread. The client sees `message`."""

    @abstractmethod
    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call back, from any thread, when the client gives up or its deadline passes before an answer."""

    def may_block(self) -> None:  # noqa: B027 - most engines have nothing to do
        """Say, in the engine's thread that runs the handler, that it may wait or compute for long.

        An engine that runs handlers in the thread that reads calls reads on in another one then. It does so,
        some milliseconds later, where nobody says it.
        """

    def runs_on(self, loop: HandlersLoop) -> None:  # noqa: B027 - most engines have nothing to do
        """Say, in the engine's thread, that its handler runs on `loop`.

        An engine may read calls on that loop, then: also those whose handler must be run elsewhere.
        """

    @abstractmethod
    def metadata(self) -> Metadata:
        """What the client sent beside the message; names in lower case."""

    @abstractmethod
    def time_allowed_s(self) -> float | None:
        """Until the client's deadline, from when the call came; None where it set none."""

    def held_up_s(self) -> float:
        """How long its client has let the call wait for what that asked of it: no time of the call's own."""
        return 0.0


class StreamRpc(Rpc):
    """One call with many replies. `respond` sends the last one."""

    __slots__ = ()

    @abstractmethod
    def send(self, reply: bytes) -> bool:
        """Send one of the replies, from any thread, without waiting.

        False where the client is gone, or does not read.
        """


@mypyc_attr(allow_interpreted_subclasses=True)
class BidiRpc(ABC):
    """One call whose messages come one by one, and are answered by as many as one likes.

    Its handler, a BidiHandler, sets the callbacks before it returns. All of them are called on the engine's
    event loop, one after the other, and must not block: whoever needs longer answers from a thread, later.
    """

    __slots__ = ("method", "on_half_close", "on_message")

    def __init__(self, method: str) -> None:
        #: As on the wire.
        self.method = method
        self.on_message: Callable[[bytes], None] = lambda message: None
        #: The client has sent its last message.
        self.on_half_close: Callable[[], None] = self.end

    @abstractmethod
    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call back when the client gives up, or its deadline passes, before the end."""

    @abstractmethod
    def on_loop(self, task: Callable[[], None]) -> None:
        """Run `task` where the callbacks are called, from any thread, before those of what comes later."""

    @abstractmethod
    def in_thread(self, task: Callable[[], None]) -> None:
        """Run `task`, which never raises, in one of the engine's threads that run handlers.

        A task that may wait, or compute for long, says so there by `may_block`.
        """

    def in_turn(self, task: Callable[[], None]) -> None:
        """The same for a task that may as well run on a loop that reads calls: it finds out where it is.

        There is one at a time.
        """
        self.in_thread(task)

    def may_block(self) -> None:  # noqa: B027 - most engines have nothing to do
        """As an Rpc's, in a task of `in_thread`."""

    def runs_on(self, loop: HandlersLoop) -> None:  # noqa: B027 - most engines have nothing to do
        """As an Rpc's, in a task of `in_turn`."""

    @abstractmethod
    def begin(self, metadata: Metadata) -> None:
        """Send metadata, from any thread, before the first message. Raises ValueError for what is none."""

    @abstractmethod
    def send(self, message: bytes) -> bool:
        """Send one message, from any thread, without waiting.

        False where the call is over, or the client does not read.
        """

    def finish(self, message: bytes) -> bool:
        """Send the last message, and end the call well. False, without the end, as `send`."""
        if not self.send(message):
            return False
        self.end()
        return True

    @abstractmethod
    def end(
        self,
        status: Status | None = None,
        message: str = "",
        details: bytes = b"",
        metadata: Metadata = (),
    ) -> None:
        """End the call, from any thread; None: all went well. The first end counts.

        `details` are a serialized `google.rpc.Status`. Raises ValueError for metadata that is none.
        """

    def failed_reply(self) -> FailedReply | None:
        """That of its method, as `Methods.failed` has it; None: an error is one."""
        return None

    def fail(self, status: Status, message: str) -> None:
        """End the call badly, from any thread: by the reply that stands for it, if there is one."""
        failed = self.failed_reply()
        if failed is None or not self.finish(failed(status, message)):
            self.end(status, message)

    @abstractmethod
    def metadata(self) -> Metadata:
        """As an Rpc's."""

    @abstractmethod
    def time_allowed_s(self) -> float | None:
        """As an Rpc's."""


def wait_until_s(rpc: Rpc, limit_s: float) -> float:
    """As time.monotonic(), when `limit_s` from now are over, or sooner where the client allows less."""
    allowed_s = rpc.time_allowed_s()
    return time.monotonic() + (limit_s if allowed_s is None else min(limit_s, allowed_s))


#: Says as a small reply what a status and a message say. It never raises, and does not block.
FailedReply = Callable[[Status, str], bytes]
#: What an engine calls for each call, in one of its threads. It answers now or later, and never raises.
Handler = Callable[[Rpc], None]
#: The same for a call with many replies.
ServerStreamingHandler = Callable[[StreamRpc], None]
#: Called on the engine's event loop when such a call begins.
BidiHandler = Callable[[BidiRpc], None]


class NotingHandler:
    """A BidiHandler that does no more than to note what comes, and so does the `on_message` that it sets.

    An engine may call both with its locks held: of the call, they use `metadata`, `in_thread` and `on_loop`.
    """

    __slots__ = ("begin",)

    def __init__(self, begin: BidiHandler) -> None:
        self.begin = begin

    def __call__(self, rpc: BidiRpc) -> None:
        self.begin(rpc)


@dataclass(frozen=True, slots=True)
class Methods:
    """What an engine serves: the handler of each method, by its path on the wire."""

    unary: Mapping[str, Handler] = field(default_factory=dict)
    #: With many replies to one message.
    server_streaming: Mapping[str, ServerStreamingHandler] = field(default_factory=dict)
    #: With many messages each way.
    bidi: Mapping[str, BidiHandler] = field(default_factory=dict)
    #: What takes calls of a unary method before its handler, in an engine that has a `poller`.
    relays: Mapping[str, Relay] = field(default_factory=dict)
    #: Of methods whose clients may take an error for a yes: their calls end with such a reply instead; those
    #: with many messages where they are ended by `fail`, or by the engine itself.
    failed: Mapping[str, FailedReply] = field(default_factory=dict)

    def __or__(self, other: Methods) -> Methods:
        """Both tables' rows; the other's where both have one."""
        return Methods(
            {**self.unary, **other.unary},
            {**self.server_streaming, **other.server_streaming},
            {**self.bidi, **other.bidi},
            {**self.relays, **other.relays},
            {**self.failed, **other.failed},
        )

    def __iter__(self) -> Iterator[str]:
        """The paths."""
        yield from self.unary
        yield from self.server_streaming
        yield from self.bidi


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What every engine is told."""

    max_message_bytes: int
    #: Threads that run handlers: grown to the maximum when all are busy.
    min_threads: int
    max_threads: int
    max_concurrent_streams: int
    max_metadata_bytes: int
    #: None: plaintext. Unix sockets are plaintext in any case.
    tls: TlsFiles | None = None
    #: What one connection may use, beside what is said above. Only the http2 engine knows them.
    connection_limits: Limits | None = None


@mypyc_attr(allow_interpreted_subclasses=True)
class Engine(ABC):
    """A server, of gRPC or a gateway's own protocol. Its life: `listen` once or more, `start`, `stop`.

    `use` may come between, as often as one likes.
    """

    name: ClassVar[str]
    #: Whether it takes the path of a unix socket that another server still listens on.
    takes_over: ClassVar[bool] = False

    @property
    def refused_calls(self) -> int:
        """Calls that it refused itself: their message was too large. 0 where the transport does not tell."""
        return 0

    @property
    def lost_requests(self) -> int:
        """Requests whose other side never said how they go on; 0 where it always does."""
        return 0

    @abstractmethod
    def listen(self, address: str) -> str:
        """Bind `HOST:PORT` or `unix:/path`; returns it with the port that was given for 0.

        Raises ListenError.
        """

    def listen_on(self, listening: socket.socket) -> None:
        """Serve a socket that listens already, as one that was inherited; it is closed at the end.

        Raises ListenError where this engine cannot.
        """
        raise ListenError(f"the engine {self.name} takes no socket that others opened. Expected: http2")

    @abstractmethod
    def start(self, methods: Methods) -> None:
        """Serve these methods. Returns when clients can connect."""

    @abstractmethod
    def use(self, methods: Methods) -> None:
        """Serve the same methods by other handlers from now on, from any thread.

        Calls that have come may still reach the handlers of before.
        """

    @abstractmethod
    def replace_thread(self, thread_id: int) -> bool:
        """Give up the handler thread `thread_id`, which hangs, and start one in its place.

        False where that would make more threads than are allowed.
        """

    @property
    def poller(self) -> Server | None:
        """What polls its sockets, once it is started, where it polls others' as well."""
        return None

    def begin(self) -> None:  # noqa: B027 - most have nothing to do
        """The handlers serve from now on. It may be told again. Raises CoprocessError."""

    @property
    def in_flight(self) -> int:
        """Requests that run now and are no calls of a service; 0 where all are."""
        return 0

    def drain(self, timeout_s: float) -> bool:
        """Have clients send what is new elsewhere, and wait for what they were told is taken.

        False where requests still run that are no calls.
        """
        return True

    @abstractmethod
    def stop(self) -> None:
        """Close all connections, and end the engine's threads that do not run a handler."""

    @property
    @abstractmethod
    def thread_count(self) -> int:
        """Threads that run handlers, now, without those that were given up."""

    @property
    @abstractmethod
    def abandoned_thread_count(self) -> int:
        """Threads that were given up, and hang still."""


@mypyc_attr(allow_interpreted_subclasses=True)
class EngineWithoutHandlers(Engine):
    """One that runs no handler itself: what it serves is others' to run, so it has no threads for them."""

    def use(self, methods: Methods) -> None:
        """Whoever runs the handlers has them."""

    def replace_thread(self, thread_id: int) -> bool:
        return False

    @property
    def thread_count(self) -> int:
        return 0

    @property
    def abandoned_thread_count(self) -> int:
        return 0
