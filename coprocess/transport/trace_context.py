"""The trace context that a caller sends: the two metadata entries of W3C Trace Context, within its limits.

Apart from the tracing library, as a front process passes these on to its workers and traces nothing itself.
"""

from __future__ import annotations

from coprocess.transport.engine import Metadata

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
_NAMES = (TRACEPARENT, TRACESTATE)

#: Of one entry. What is longer could be another's memory or log; the standard lets it be dropped.
MAX_ENTRY_BYTES = 512


def trace_context_of(metadata: Metadata) -> list[tuple[str, str]]:
    """The entries that continue a trace, in the order they came; empty where there is none to continue."""
    found = [
        (name, value)
        for name, value in metadata
        if name in _NAMES and isinstance(value, str) and len(value) <= MAX_ENTRY_BYTES and value.isascii()
    ]
    # Without it, a tracestate means nothing; with two of them, nobody knows which is meant.
    return found if sum(name == TRACEPARENT for name, _ in found) == 1 else []
