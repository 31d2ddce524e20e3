"""Which calls are recorded: those whose caller asks for it, and a part of those whose caller says nothing.

It is decided before anything is made for a call. One that is not recorded runs within a span that stands
for all of those: it says "not sampled" to what its handler traces, or calls. Its ids are made when somebody
asks for them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from contextlib import suppress
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    SpanContext,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from coprocess.transport.engine import Metadata
from coprocess.transport.trace_context import TRACEPARENT, TRACESTATE, trace_context_of

if TYPE_CHECKING:
    from coprocess.runtime.call import Call

NOWHERE = Context()
#: In a context: a call begins there that is recorded.
KEPT_KEY = otel_context.create_key("coprocess-kept")
#: Where a call begins that is recorded, and continues no trace.
KEPT = otel_context.set_value(KEPT_KEY, True, NOWHERE)

# As the gateway writes names of headers.
_HEADERS = ((TRACEPARENT, "Traceparent"), (TRACESTATE, "Tracestate"))
_propagator = TraceContextTextMapPropagator()


def continued(entries: Iterable[tuple[str, str]], otherwise: Context) -> Context:
    """The context that the entries of a caller say; `otherwise`, where they say none."""
    carrier: dict[str, list[str]] = {}
    for name, value in entries:
        carrier.setdefault(name, []).append(value)
    return _propagator.extract(carrier, otherwise) if carrier else otherwise


def headers_context(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """As `trace_context_of`, of the headers of a request."""
    return trace_context_of([(name, headers[header]) for name, header in _HEADERS if header in headers])


class Sample:
    """Decides for each call."""

    def __init__(self, part: float) -> None:
        self._part = part

    def has(self, metadata: Metadata) -> bool:
        """Whether the call that came with `metadata` is recorded."""
        for name, _ in metadata:
            if name == TRACEPARENT:
                parent = get_current_span(continued(trace_context_of(metadata), NOWHERE)).get_span_context()
                if parent.is_valid:
                    return parent.trace_flags.sampled
                break
        return random.random() < self._part  # noqa: S311 - no secret


def _new_id(bits: int) -> int:
    return random.randrange(1, 1 << bits)  # noqa: S311 - no secret


class _Unrecorded(NonRecordingSpan):
    """The span of all calls that are not recorded. Its ids are those of the call that runs."""

    def __init__(self) -> None:
        super().__init__(INVALID_SPAN_CONTEXT)
        self._within = set_span_in_context(self, NOWHERE)
        self._call: ContextVar[Call | None] = ContextVar("coprocess_unrecorded_call", default=None)
        self._known: ContextVar[tuple[Call | None, SpanContext] | None] = ContextVar(
            "coprocess_unrecorded_ids", default=None
        )

    def attach(self, call: Call) -> tuple[Token[Any], Token[Any]]:
        """What runs from here on, until that is detached, is of `call`."""
        return self._call.set(call), otel_context.attach(self._within)

    def detach(self, attached: tuple[Token[Any], Token[Any]]) -> None:
        call, within = attached
        with suppress(ValueError):  # It is closed elsewhere, as its loop runs no more.
            self._call.reset(call)
        otel_context.detach(within)

    def get_span_context(self) -> SpanContext:
        call, known = self._call.get(), self._known.get()
        if known is not None and known[0] is call:
            return known[1]
        parent = INVALID_SPAN_CONTEXT
        if call is not None:
            entries = trace_context_of(call.rpc.metadata()) or headers_context(call.request_headers)
            parent = get_current_span(continued(entries, NOWHERE)).get_span_context()
        made = SpanContext(
            parent.trace_id if parent.is_valid else _new_id(128),
            _new_id(64),
            is_remote=False,
            trace_state=parent.trace_state,
        )
        self._known.set((call, made))
        return made


UNRECORDED = _Unrecorded()
