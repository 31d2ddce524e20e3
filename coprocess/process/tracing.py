"""Spans of the calls: one for each call, one for its handler, and one for each store operation in that.

The span of a call hangs on its Rpc (`TracedRpc`), because every call ends by exactly one first answer of its
Rpc, whoever gives it: the handler's thread, the event loop, the watchdog. Nothing in a span comes from a
body, a header or a store's key; errors are recorded by type, and by texts that clients may see.

Where a part of the calls is recorded, the others have no TracedRpc, and nothing is made for them: see
`trace_sampling`.

Imported where tracing is on only: it needs the extra `otel`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, cast

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import (
    Span,
    SpanKind,
    StatusCode,
    format_span_id,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.util.types import Attributes

from coprocess.errors import CoprocessError, Status
from coprocess.process import redaction
from coprocess.process.trace_sampling import KEPT, NOWHERE, UNRECORDED, Sample, continued, headers_context
from coprocess.runtime import prints
from coprocess.runtime.call import Call
from coprocess.transport.engine import Handler, HandlersLoop, Metadata, Rpc
from coprocess.transport.trace_context import trace_context_of

_OK = 0
_LONGEST_API_ID = 256
_METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY", "WEBSOCKET")
)

#: As the server gets them. What is a script there (`increment` with a time to live, a lock) does the same.
_STORE_COMMANDS = {
    "get": "GET",
    "set": "SET",
    "delete": "DEL",
    "exists": "EXISTS",
    "increment": "INCRBY",
    "set_if_absent": "SET",
    "expire": "PEXPIRE",
    "lock": "SET",
    "unlock": "DEL",
    "ping": "PING",
}


class SpanMaker(Protocol):
    """What is used of a tracer."""

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        *,
        start_time: int | None = None,
    ) -> Span: ...


class TracedRpc(Rpc):
    """A call with its span, which ends with the first answer."""

    __slots__ = (
        "_arrived_ns",
        "_ended",
        "_failure",
        "_handler_span",
        "_inner",
        "_is_answered",
        "_lock",
        "_parent",
        "_span",
        "_tracer",
    )

    def __init__(
        self, inner: Rpc, tracer: SpanMaker, parent: Context | None = None, waited_s: float = 0.0
    ) -> None:
        """`parent` None: what the caller's metadata, or its request's headers, say.

        It came `waited_s` ago.
        """
        self.method = inner.method
        self.payload = inner.payload
        self._arrived_ns = time.time_ns() - int(waited_s * 1e9)
        self._inner = inner
        self._tracer = tracer
        self._parent = parent
        self._lock = threading.Lock()
        self._span: Span | None = None
        self._handler_span: Span | None = None
        self._failure: CoprocessError | None = None
        self._ended = False
        self._is_answered = False

    # As an Rpc.

    def respond(self, reply: bytes) -> None:
        is_first = self._is_first()
        try:
            self._inner.respond(reply)
        except BaseException:
            self._is_answered = not is_first  # Where it could not be sent, another comes.
            raise
        if is_first:
            self._end(_OK, None if self._failure is None else str(self._failure))

    def fail(self, status: Status, message: str) -> None:
        is_first = self._is_first()
        self._inner.fail(status, message)
        if is_first:
            self._end(status, message)

    def _is_first(self) -> bool:
        """Whether no answer came before. To be asked before this one is sent: its client may have the handler
        go on at once, whose own answer comes before the span is ended.
        """
        with self._lock:
            was_answered, self._is_answered = self._is_answered, True
        return not was_answered

    def on_cancel(self, callback: Callable[[], None]) -> None:
        self._inner.on_cancel(callback)

    def may_block(self) -> None:
        self._inner.may_block()

    def runs_on(self, loop: HandlersLoop) -> None:
        self._inner.runs_on(loop)

    def held_up_s(self) -> float:
        return self._inner.held_up_s()

    def metadata(self) -> Metadata:
        return self._inner.metadata()

    def time_allowed_s(self) -> float | None:
        return self._inner.time_allowed_s()

    # The spans.

    def open_span(self, call: Call | None) -> Span:
        """The call's span. It is made when its hook is known, or, with None, when it ends without one."""
        with self._lock:
            return self._open(call)

    def _open(self, call: Call | None) -> Span:
        if self._span is None:
            attributes: dict[str, str] = {}
            name, kind = self._own_name(call), SpanKind.INTERNAL
            if self.method:
                name, kind = self.method.removeprefix("/"), SpanKind.SERVER
                service, _, method = name.rpartition("/")
                # A gateway that speaks no gRPC has methods without a service.
                attributes = {"rpc.system": "grpc", "rpc.service": service} if service else {}
                attributes["rpc.method"] = method
            if call is not None:
                attributes["coprocess.hook.type"] = call.hook_type
                attributes["coprocess.hook.name"] = call.hook_name
                attributes["coprocess.api_id"] = _sendable(call.api_id[:_LONGEST_API_ID])
                if call.version:
                    attributes["coprocess.version"] = call.version
            parent = self._remote_parent(call) if self._parent is None else self._parent
            self._span = self._tracer.start_span(
                name, parent, kind, attributes=attributes, start_time=self._arrived_ns
            )
        return self._span

    def _own_name(self, call: Call | None) -> str:
        """Of a call that came by no engine."""
        return "local event"

    def _remote_parent(self, call: Call | None) -> Context:
        entries = trace_context_of(self._inner.metadata())
        if not entries and call is not None:
            # A gateway that does not trace passes on what its own client sent.
            entries = headers_context(call.request_headers)
        return continued(entries, KEPT)

    def begin_handler(self, call: Call, waited_s: float) -> Context:
        """Start the handler's span; the context in which the handler is to run."""
        with self._lock:
            parent = self._open(call)
            within = set_span_in_context(parent, NOWHERE)
            if not parent.is_recording():
                # Its trace is not sampled: a span within it would take time, and never be seen.
                return within
            parent.set_attribute("coprocess.queue.wait_s", waited_s)
            span = self._tracer.start_span(f"{call.hook_type} {call.hook_name}", within)
            if self._ended:
                # Its client gave up, and was told so, just now.
                span.end()
            else:
                self._handler_span = span
        return set_span_in_context(span, NOWHERE)

    def end_handler(self, error: BaseException | None) -> None:
        """End the handler's span, unless the call's end has ended it."""
        with self._lock:
            span, self._handler_span = self._handler_span, None
        if span is None:
            return
        if error is not None:
            _record(span, error.__cause__ or error)
        span.end()

    def note_failure(self, error: CoprocessError) -> None:
        """The call has failed with `error`, though an answer may cover that."""
        self._failure = error

    def _end(self, status: int, failure: str | None) -> None:
        with self._lock:
            if self._ended:
                return
            self._ended = True
            span = self._open(None)
            handler_span, self._handler_span = self._handler_span, None
        if handler_span is not None:
            # It runs on, perhaps for ever. Its span would never be seen.
            handler_span.set_status(StatusCode.ERROR, "the call ended before its handler")
            handler_span.end()
        if self.method:
            span.set_attribute("rpc.grpc.status_code", int(status))
        if failure is not None:
            kind = Status(status).name if self._failure is None else type(self._failure).__name__
            span.set_attribute("error.type", kind)
            span.set_status(StatusCode.ERROR, redaction.redact_text(_sendable(failure)))
        span.end()


class _HandlerRpc(TracedRpc):
    """A call within a traced request: its span is its handler's, too."""

    __slots__ = ()

    def _own_name(self, call: Call | None) -> str:
        return "handler" if call is None else f"{call.hook_type} {call.hook_name}"

    def begin_handler(self, call: Call, waited_s: float) -> Context:
        span = self.open_span(call)
        if span.is_recording():
            span.set_attribute("coprocess.queue.wait_s", waited_s)
        return set_span_in_context(span, NOWHERE)

    def end_handler(self, error: BaseException | None) -> None:
        with self._lock:
            span = None if self._ended else self._span
        if span is not None and error is not None:
            _record(span, error.__cause__ or error)


_TRACED = (TracedRpc, _HandlerRpc)


class _Handling:
    """Within it, a recorded call's handler runs. Not a generator's: that takes three times as long."""

    __slots__ = ("_call", "_token")

    def __init__(self, call: Call) -> None:
        self._call = call

    def __enter__(self) -> None:
        call = self._call
        context = cast("TracedRpc", call.rpc).begin_handler(call, time.monotonic() - call.since_s)
        self._token = otel_context.attach(context)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        cast("TracedRpc", self._call.rpc).end_handler(error)
        # While it is known whose line it is.
        if prints.has_printed:
            prints.end_line()
        otel_context.detach(self._token)


class _RequestSpan:
    """Of a request around a web app. What it says of the request is the method and the status."""

    def __init__(self, tracer: SpanMaker, method: str, api_id: str, parent: Context) -> None:
        # A method is whatever a client sends: names of spans are few.
        known = method if method in _METHODS else "_OTHER"
        attributes = {"http.request.method": known, "coprocess.api_id": _sendable(api_id[:_LONGEST_API_ID])}
        self._span = tracer.start_span(
            known if known == method else "HTTP", parent, SpanKind.SERVER, attributes=attributes
        )

    @contextmanager
    def current(self) -> Iterator[None]:
        token = otel_context.attach(set_span_in_context(self._span))
        try:
            yield
        finally:
            otel_context.detach(token)

    def answered(self, status: int) -> None:
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._span.set_attribute("error.type", str(status))
            self._span.set_status(StatusCode.ERROR)

    def end(self, error: BaseException | None) -> None:
        if error is not None:
            _record(self._span, error)
        self._span.end()


class CallTracing:
    """What a service is given to trace its calls with. Each `rpc` it is passed came through `traced`.

    It is a TracedRpc, where the call is recorded.
    """

    def __init__(self, tracer: SpanMaker, sample: float | None = None) -> None:
        """`sample` is the part of the calls that is recorded; None: the tracer's sampler decides."""
        self._tracer = tracer
        self._sample = None if sample is None else Sample(sample)

    def traced(self, handler: Handler) -> Handler:
        """`handler`, with a span for each call that it gets, and that is recorded."""
        tracer, sample = self._tracer, self._sample

        def handle(rpc: Rpc) -> None:
            handler(TracedRpc(rpc, tracer) if sample is None or sample.has(rpc.metadata()) else rpc)

        return handle

    def of(self, rpc: Rpc) -> Rpc:
        """A call that came by no engine, with its span, where it is recorded."""
        if self._sample is None or self._sample.has(rpc.metadata()):
            return TracedRpc(rpc, self._tracer)
        return rpc

    def request(self, method: str, api_id: str, headers: Iterable[tuple[str, str]]) -> _RequestSpan:
        """A request begins: within what is current here, or as its headers say."""
        here = otel_context.get_current()
        is_within = get_current_span(here).get_span_context().is_valid
        parent = here if is_within else continued(trace_context_of(list(headers)), NOWHERE)
        return _RequestSpan(self._tracer, method, api_id, parent)

    def within(self, rpc: Rpc, call: Call) -> Rpc:
        """A call of a request, within whose span it belongs."""
        traced = _HandlerRpc(rpc, self._tracer, otel_context.get_current())
        traced.open_span(call)
        return traced

    def local_event(self, rpc: Rpc) -> Rpc:
        """The same for an event that runs apart from its caller, within whose span it belongs."""
        return TracedRpc(rpc, self._tracer, otel_context.get_current())

    def know_hook(self, rpc: Rpc, call: Call) -> None:
        """Tell the hook of a call that may never run."""
        if self._is_recorded(call):
            cast("TracedRpc", call.rpc).open_span(call)

    def run(self, call: Call) -> bytes:
        """`Call.run` within the handler's span."""
        if self._is_recorded(call):
            with _Handling(call):
                return call.run()
        UNRECORDED.attach(call)  # It is never detached: the context is the call's own.
        return call.run()

    async def run_async(self, call: Call) -> bytes:
        if self._is_recorded(call):
            with _Handling(call):
                return await call.run_async()
        attached = UNRECORDED.attach(call)
        try:
            return await call.run_async()
        finally:
            # All of it: what runs here next may be another call.
            UNRECORDED.detach(attached)

    def _is_recorded(self, call: Call) -> bool:
        """Whether its Rpc is a TracedRpc. It becomes one where its request's headers ask for that."""
        rpc = call.rpc
        # `isinstance` of an abstract class takes long where it says no, as for most calls.
        if type(rpc) in _TRACED:
            return True
        headers = call.request_headers
        if "Traceparent" not in headers or trace_context_of(rpc.metadata()):
            return False
        parent = continued(headers_context(headers), NOWHERE)
        if not get_current_span(parent).get_span_context().trace_flags.sampled:
            return False
        call.rpc = TracedRpc(rpc, self._tracer, parent, time.monotonic() - call.since_s)
        return True

    def failed(self, rpc: Rpc, error: CoprocessError) -> None:
        """A call has failed: also where the client will be answered as if it had not."""
        if isinstance(rpc, TracedRpc):
            rpc.note_failure(error)

    def ids(self, rpc: Rpc) -> dict[str, str]:
        """What a log line about the call tells of its trace."""
        if isinstance(rpc, TracedRpc):
            return _ids(rpc.open_span(None))
        return _ids(get_current_span(continued(trace_context_of(rpc.metadata()), NOWHERE)))

    def observe_store(self, operation: str, duration_s: float, succeeded: bool) -> None:
        """A store's observer. Only what handlers do is told; no key, no value."""
        if not get_current_span().is_recording():
            return
        command = _STORE_COMMANDS[operation]
        ended_ns = time.time_ns()
        span = self._tracer.start_span(
            command,
            kind=SpanKind.CLIENT,
            attributes={"db.system.name": "redis", "db.operation.name": command},
            start_time=ended_ns - int(duration_s * 1e9),
        )
        if not succeeded:
            span.set_attribute("error.type", "StoreError")
            span.set_status(StatusCode.ERROR)
        span.end(ended_ns)


def current_ids() -> dict[str, str]:
    """Trace and span of the running code, as log lines tell them; empty outside of a traced call."""
    return _ids(get_current_span())


def _ids(span: Span) -> dict[str, str]:
    context = span.get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": format_trace_id(context.trace_id), "span_id": format_span_id(context.span_id)}


def _record(span: Span, error: BaseException) -> None:
    """By its type only: what an exception says may be anything."""
    kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    span.add_event("exception", {"exception.type": kind})
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR, kind)


def _sendable(text: str) -> str:
    """`text` without halves of surrogate pairs: one of them would cost the whole batch."""
    return text.encode("utf-8", "replace").decode()
