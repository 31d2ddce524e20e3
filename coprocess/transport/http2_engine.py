"""The http2 engine: `coprocess.transport.http2` behind the seam, with threads that run handlers."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from coprocess.errors import Status, raise_from
from coprocess.transport.awake import AwakeTime
from coprocess.transport.engine import (
    Engine,
    EngineOptions,
    FailedReply,
    HandlersLoop,
    ListenError,
    Methods,
)
from coprocess.transport.http2 import sockets
from coprocess.transport.http2.grpc_connection import GrpcConnection, Method
from coprocess.transport.http2.grpc_wire import Refused, Request
from coprocess.transport.http2.limits import Limits
from coprocess.transport.http2.protocol import Http2Protocol
from coprocess.transport.http2.server import Server
from coprocess.transport.http2.streams import Stream
from coprocess.transport.http2.turns import Turns
from coprocess.transport.http2_calls import Http2Bidi, Http2Rpc, Http2Stream
from coprocess.transport.http2_large_calls import LARGE_BYTES, LargeCalls
from coprocess.transport.workers import WorkerThreads

#: For the threads: a call to be handled, a stream with a task, or what its handler wants to be done.
_Task = Http2Rpc | Http2Bidi | Callable[[], None]


class Http2Engine(Engine):
    """One server for all addresses, and threads that poll it in turn, and run the handlers of calls."""

    name = "http2"

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self.max_message_bytes = options.max_message_bytes
        limits = options.connection_limits or Limits()
        limits = replace(
            limits,
            # Two of the largest messages in any case.
            max_held_bytes=max(limits.max_held_bytes, 2 * options.max_message_bytes),
            max_unsent_bytes=max(limits.max_unsent_bytes, 2 * options.max_message_bytes),
            max_bytes_together=max(limits.max_bytes_together, 2 * options.max_message_bytes),
            max_message_bytes=options.max_message_bytes,
            max_metadata_bytes=options.max_metadata_bytes,
            max_concurrent_streams=min(limits.max_concurrent_streams, options.max_concurrent_streams),
        )
        #: How a call of each method begins, by its path.
        self._beginnings: dict[str, Method] = {}
        self.server = Server(self._beginnings, limits)
        self.answer = self.server.answer
        self.callbacks = self.server.callbacks
        self._turns: Turns[_Task] = Turns(self.server, self._run, _nothing, self._run_on_loop)
        self.tasks = self._turns.tasks
        #: Whether tasks of those that come later wait.
        self.lines = self.server.later.lines
        self.may_block = self._turns.may_block
        self.put_task = self._turns.put
        self.call_back = self.server.call_back
        self._methods = Methods()
        #: Of methods with one message, whatever their kind of reply: every call looks here.
        self._handlers: dict[str, Callable[[Any], None]] = {}
        #: Methods whose handlers have said that they run on a loop, or elsewhere where they may not.
        self._loop_methods: set[str] = set()
        self._threads: WorkerThreads[_Task] | None = None
        self._large = LargeCalls(self.server, self._handle, self.put_task, self.may_block)
        #: Of calls that were given up: perhaps they wait for a thread, and are kept until then.
        self._given_up_bytes = 0

    def _begin(
        self,
        connection: GrpcConnection,
        stream: Stream,
        request: Request,
        message: bytes,
        is_compressed: bool,
    ) -> Http2Rpc:
        """A call with one message and one reply."""
        owner = connection.owner
        rpc = Http2Rpc(self, owner, stream, request, message, is_compressed)
        owner.calls.append(rpc)
        return rpc

    def _begin_stream(self, connection: GrpcConnection, *others: Any) -> Http2Stream:
        owner = connection.owner
        rpc = Http2Stream(self, owner, *others)
        owner.calls.append(rpc)
        return rpc

    def _open(self, connection: GrpcConnection, stream: Stream, request: Request) -> Http2Bidi:
        rpc = Http2Bidi(self, connection.owner, stream, request)
        rpc.opened(self._methods.bidi[request.method])
        return rpc

    def _run(self, rpc: _Task) -> None:
        # By its type: `isinstance` of an abstract class takes long where it says no.
        if type(rpc) is Http2Bidi:
            # It is kept no longer, as it knows this call.
            task, rpc.task = rpc.task, _nothing
            task()
            return
        if type(rpc) is not Http2Rpc and type(rpc) is not Http2Stream:
            rpc()  # type: ignore[operator]  # it is no call
            return
        if rpc.is_over:
            return  # Nobody waits for it.
        if rpc.is_compressed or len(rpc.payload) > LARGE_BYTES:
            self._large.add(rpc)
            return
        self._handlers[rpc.method](rpc)

    def _handle(self, rpc: Http2Rpc) -> None:
        self._handlers[rpc.method](rpc)

    def given_up(self, rpc: Http2Rpc) -> None:
        """See that those that wait for a thread do not become too many. With the server's lock."""
        self._given_up_bytes += len(rpc.payload) + _CALL_BYTES
        if self._given_up_bytes > _MOST_GIVEN_UP_BYTES:
            self._given_up_bytes = 0
            self._turns.drop(_is_over)
            self._large.drop(_is_over)

    def runs_on(self, path: str, loop: HandlersLoop) -> None:
        self._loop_methods.add(path)
        self._turns.runs_on(loop)

    def _run_on_loop(self, task: _Task) -> bool:
        """False where it may not, as it may take long there."""
        if type(task) is Http2Bidi:
            if task.method not in self._loop_methods:
                return False
            self._run(task)
            return True
        if (
            type(task) is not Http2Rpc
            or task.is_compressed
            or len(task.payload) > LARGE_BYTES
            or task.method not in self._loop_methods
        ):
            return False
        if not task.is_over:
            self._handlers[task.method](task)
        return True

    def send(self, protocol: Http2Protocol, stream: Stream, message: bytes) -> bool:
        """One of many messages. False where the call is over, or its client does not read."""
        return bool(self.answer(protocol, protocol.send, stream, message))

    def hold(self, protocol: Http2Protocol, stream: Stream, size_bytes: int) -> bool:
        """Count what a thread keeps for a call; False where that is over. Raises Refused: it is too much."""
        with self.server.lock:
            return protocol.grpc.hold(stream, size_bytes)

    def give_way(self) -> None:
        """By a thread that computes without the interpreter: where who polls has something to do, it may."""
        if self.server.is_due():
            time.sleep(_GIVEN_S)

    def failed_reply_of(self, path: str) -> FailedReply | None:
        """As of `Methods.failed`."""
        return self._methods.failed.get(path)

    def refuse(self, rpc: Http2Rpc, refused: Refused) -> None:
        if refused.status == Status.RESOURCE_EXHAUSTED:
            self.server.service.refused_calls += 1
        rpc.fail(refused.status, refused.message)

    @property
    def poller(self) -> Server:
        return self.server

    @property
    def refused_calls(self) -> int:
        return self.server.service.refused_calls

    def listen(self, address: str) -> str:
        try:
            if address.startswith("unix:"):
                bound = [sockets.unix_socket(address.removeprefix("unix:"))]
            else:
                bound = sockets.tcp_sockets(address)
        except (OSError, ValueError) as error:
            raise_from(ListenError(f"cannot listen on {address}: {_reason(error)}"), None)
        for each in bound:
            self.listen_on(each)
        if address.startswith("unix:"):
            return address
        return f"{address.rpartition(':')[0]}:{bound[0].getsockname()[1]}"

    def listen_on(self, bound: socket.socket) -> None:
        """Serve a socket that is bound already, as one that was inherited."""
        tls = self._options.tls if bound.family != socket.AF_UNIX else None
        self.server.listen(bound, tls.http2_context if tls is not None else None)

    def start(self, methods: Methods) -> None:
        for path in methods.unary:
            self._beginnings[path] = Method(begin=self._begin)
        self.use(methods)
        for path in methods.server_streaming:
            self._beginnings[path] = Method(begin=self._begin_stream)
        for path in methods.bidi:
            self._beginnings[path] = Method(open=self._open)
        self._threads = WorkerThreads(
            "http2",
            self._turns.take,
            self._run,
            minimum=self._options.min_threads,
            maximum=self._options.max_threads,
            spare=1,  # The one that polls.
        )
        self.server.open()
        self._turns.start(self._threads)
        self._threads.start()

    def use(self, methods: Methods) -> None:
        self._methods = methods
        self._handlers = {**methods.unary, **methods.server_streaming}
        for path, method in self._beginnings.items():
            if path in methods.unary:
                relay = methods.relays.get(path)
                method.begin = self._begin if relay is None else relay(self._begin)
        self.server.service.failed = methods.failed

    def replace_thread(self, thread_id: int) -> bool:
        return self._threads is not None and self._threads.replace(thread_id)

    def drain(self, timeout_s: float) -> bool:
        until_s = time.monotonic() + timeout_s
        # `stop` comes first, but for a service that hangs.
        self.server.drain(timeout_s + _DRAIN_MARGIN_S)
        self._wait_for_answers(until_s)
        return True

    def _wait_for_answers(self, until_s: float) -> None:
        """Clients were told which calls are taken: those that still come, or wait for a thread, are, too.

        What comes is waited for as long as more of it does.
        """
        before: tuple[int, int] | None = None
        waited, since_s = AwakeTime(), 0.0
        while time.monotonic() < until_s:
            now_s = waited.passed_s()
            # Those with many replies, or messages, end when whoever has them says so.
            calls = [each for each in self.server.unanswered() if type(each.call) not in _OF_MANY]
            coming = [each.held_bytes for each in calls if each.call is None]
            if not calls:
                return
            if len(coming) < len(calls) or (len(coming), sum(coming)) != before:
                before, since_s = (len(coming), sum(coming)), now_s
            elif now_s - since_s > _FLUSH_S:
                return
            time.sleep(_INTERVAL_S)

    def stop(self) -> None:
        self.server.stop(_FLUSH_S)
        if self._turns.stop(_FLUSH_S):
            self.server.close()  # Else somebody polls it still, and lets it go when the process ends.

    @property
    def thread_count(self) -> int:
        return 0 if self._threads is None else min(self._threads.count, self._options.max_threads)

    @property
    def abandoned_thread_count(self) -> int:
        return 0 if self._threads is None else self._threads.abandoned


def _reason(error: OSError | ValueError) -> str:
    if not isinstance(error, OSError):
        return str(error)
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno)  # Its own text may have the address once more.


def _is_over(task: _Task) -> bool:
    return isinstance(task, Http2Rpc) and task.is_over


def _nothing() -> None: ...


#: What a call takes beside its message.
_CALL_BYTES = 1024
_MOST_GIVEN_UP_BYTES = 16 * 1024 * 1024
#: Given to who polls, on a machine with one core for both.
_GIVEN_S = 0.00005
_FLUSH_S = 1.0
_INTERVAL_S = 0.005
_OF_MANY = (Http2Stream, Http2Bidi)
_DRAIN_MARGIN_S = 10.0
