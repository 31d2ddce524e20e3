"""How calls end badly: what their clients are told, what is logged, and what is counted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog

from coprocess.api.body_stream import BodyCut
from coprocess.error_text import format_error, is_not_ours, name_of, text_of
from coprocess.errors import CoprocessError, HandlerFailed, Overloaded, ShuttingDown, TimedOut
from coprocess.runtime.call import Call
from coprocess.runtime.hook_state import HookState, label_of
from coprocess.text import printable

if TYPE_CHECKING:
    from coprocess.runtime.log_limit import LimitedLog
    from coprocess.runtime.tracing import CallTracing
    from coprocess.transport.engine import Rpc

log = structlog.get_logger("coprocess")


class Failures:
    """Answers the calls that fail. What callers can cause by the thousand is logged within limits."""

    def __init__(
        self, limited_log: LimitedLog, status: int | None, headers: tuple[tuple[str, str], ...]
    ) -> None:
        """`status`, `headers`: what clients see where a hook fails closed. None: the gateway's own error."""
        self._limited_log = limited_log
        self._status = status
        self._headers = headers
        #: Is told of failures, where there is one.
        self.tracing: CallTracing | None = None
        #: Is told of each failure of a call; for tools that show how a handler failed.
        self.observer: Callable[[Call, CoprocessError], None] | None = None
        #: Calls that reached no handler.
        self.refused = 0

    def refuse(self, rpc: Rpc, error: CoprocessError) -> None:
        """Answer a call that reaches no handler."""
        self.tell_refused(error, **self._trace_ids(rpc))
        rpc.fail(error.status, safe_text(error))

    def shed(self, call: Call) -> None:
        """Answer a call that finds its hook full, as the hook's failures are answered."""
        hook = call.gate.hook
        error = Overloaded(f'{hook.type.name} hook "{hook.name}" is overloaded')
        self.tell_refused(error, **self._trace_ids(call.rpc))
        self._answer_failure(call, error)

    def tell_refused(self, error: CoprocessError, **more: Any) -> None:
        """Log and count a call that reaches no handler. `more` goes into the log."""
        self.refused += 1
        text = safe_text(error)
        if not isinstance(error, ShuttingDown):
            # Only the text of Overloaded holds no word of the caller.
            kind = text if isinstance(error, Overloaded) else type(error).__name__
            self._limited_log.write(
                "warning",
                ("refused", kind),
                "refused",
                reason=text,
                status=error.status.name,
                **more,
            )

    def tell_failed(self, gate: HookState[Call], api_id: str, error: HandlerFailed) -> None:
        """Log and count what a handler left, and cannot go out: its call has ended, and was no failure."""
        hook = gate.hook
        gate.counts_of(api_id).failed += 1
        self._limited_log.write(
            "error",
            ("failed later", label_of(hook)),
            f'{hook.type.name} hook "{hook.name}" {safe_text(error)}',
            hook=hook.name,
            hook_type=hook.type.name,
            api_id=api_id,
        )

    def fail(self, call: Call, error: HandlerFailed) -> None:
        """Answer a call whose handler failed."""
        cause = error.__cause__
        if isinstance(cause, BodyCut):
            log.debug("a body ended before its handler had all of it", **self._tags(call))
            self._answer_failure(call, error)
            return
        call.counts.failed += 1
        # First: what a handler's exception says may take long to find out.
        self._answer_failure(call, error)
        traceback = _handlers_traceback(cause, call.rpc)
        self._log_error(call, ("failed", _place_of(cause)), safe_text(error), traceback)

    def fail_within(self, call: Call, error: Exception) -> None:
        """Answer a call that failed in this code, or in the engine's, and not in its handler."""
        try:
            call.fail(CoprocessError.status, f"internal error: {name_of(error)}")
        except Exception as failure:  # noqa: BLE001 - nothing is left to try
            log.error("a call could not be failed, either", exception=format_error(failure))
        place = ("unanswered", _place_of(error))
        self._log_error(call, place, "a call could not be answered", lambda: format_error(error))

    def time_out(self, call: Call) -> None:
        """Answer a call that took too long; nothing where that is done."""
        if call.timed_out:
            return
        call.timed_out = True
        call.counts.timed_out += 1
        timeout_s = call.gate.timeout_s
        ran_out = time.monotonic() - call.since_s >= timeout_s
        limit = f"{timeout_s:g} s" if ran_out else "its client waits"
        error = TimedOut(f'{call.hook_type} hook "{call.hook_name}" took longer than {limit}')
        self._answer_failure(call, error)
        self._log_error(call, ("timed out",), safe_text(error))

    def _answer_failure(self, call: Call, error: CoprocessError) -> None:
        if self.tracing is not None:
            self.tracing.failed(call.rpc, error)
        if self.observer is not None:
            self.observer(call, error)
        answer: bytes | None = None
        try:
            if call.gate.on_error == "open":
                answer = call.unchanged()
            elif self._status is not None:
                answer = call.refused(self._status, "Service unavailable", self._headers)
        except HandlerFailed as unusable:
            # What came could not be a reply, either.
            self._limited_log.write(
                "warning",
                ("uncovered", label_of(call.gate.hook)),
                "a failure could not be covered",
                reason=safe_text(unusable),
                **self._tags(call),
            )
        if answer is not None:
            call.rpc.respond(answer)
            return
        call.fail(error.status, safe_text(error))

    def _log_error(
        self,
        call: Call,
        kind: tuple[object, ...],
        text: str,
        traceback: Callable[[], str] | None = None,
    ) -> None:
        kind = (*kind, label_of(call.gate.hook))
        self._limited_log.write("error", kind, text, traceback=traceback, **self._tags(call))

    def _tags(self, call: Call) -> dict[str, Any]:
        tags: dict[str, Any] = {"hook": call.hook_name, "hook_type": call.hook_type, "api_id": call.api_id}
        if call.version:
            tags["version"] = call.version
        return tags | self._trace_ids(call.rpc)

    def _trace_ids(self, rpc: Rpc) -> dict[str, Any]:
        return {} if self.tracing is None else self.tracing.ids(rpc)


_LONGEST_TEXT_BYTES = 1500


def safe_text(error: Exception) -> str:
    """What `error` says, for a status and a log line: no control characters, and no longer than fits."""
    text = printable(text_of(error, _LONGEST_TEXT_BYTES))
    encoded = text.encode()
    if len(encoded) <= _LONGEST_TEXT_BYTES:
        return text
    return encoded[: _LONGEST_TEXT_BYTES - 3].decode(errors="ignore") + "…"


def _place_of(error: BaseException | None) -> tuple[str, int]:
    """Where `error` was raised: file and line."""
    trace = None if error is None else error.__traceback__
    if trace is None:
        return ("", 0)
    while trace.tb_next is not None:
        trace = trace.tb_next
    return (trace.tb_frame.f_code.co_filename, trace.tb_lineno)


def _handlers_traceback(error: BaseException | None, rpc: Rpc) -> Callable[[], str] | None:
    """Writes the traceback of what a handler raised; None where its text says it all.

    Frames of this package say nothing to those who wrote the handler: they are there at level debug only.
    """
    if error is None or isinstance(error, HandlerFailed):
        return None
    shows = None if logging.getLogger("coprocess").isEnabledFor(logging.DEBUG) else is_not_ours

    def written() -> str:
        # It takes milliseconds, in which the calls that come after this one need not wait.
        rpc.may_block()
        return format_error(error) if shows is None else format_error(error, shows)

    return written
