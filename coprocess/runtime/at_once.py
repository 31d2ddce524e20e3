"""Calls in this process that have their turn at once, wait for nothing and end well, as most do.

No Rpc is made for these. What else there is, `runtime.in_process` has.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Coroutine
from contextlib import AbstractContextManager
from contextvars import Context, copy_context
from typing import Any, Final

from mypy_extensions import mypyc_attr

from coprocess.runtime.awaited import begin
from coprocess.runtime.call import Call
from coprocess.runtime.held_call import HeldCall
from coprocess.runtime.hook_state import DURATION_BUCKETS_S
from coprocess.runtime.service import Service

#: A handler that holds up a foreign loop for so long is told of. It cannot be given up: its loop is not ours.
BLOCKS_S = 0.5
# Of this module: each call looks for them.
_now_s: Final = time.monotonic
_copy_context: Final = copy_context
_bisect: Final = bisect_left
_FIRST_S: Final = DURATION_BUCKETS_S[0]
_NOBODY: Final = contextlib.nullcontext()


@mypyc_attr(allow_interpreted_subclasses=True)
class AtOnce(ABC):
    """Begins calls of handlers of `service`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.is_closed = False

    def begin(
        self, call: HeldCall[Any], watching: AbstractContextManager[object] = _NOBODY
    ) -> Coroutine[Any, Any, None] | None:
        """Run `call` as far as it goes at once. None: it has ended. Else what is to be awaited for that.

        Cancelling this cancels an async handler, while which waits `watching` is entered.
        """
        service, hook = self._service, call.hook
        state = call.gate = service.gates[hook]
        if not hook.is_async or service.tracing is not None or self.is_closed:
            return self._begin_otherwise(call, watching)
        call.failure = None
        # As `HookState.enter`, in place, and below `leave`: each handler of a request comes by.
        counts = call.counts = state.counts.get(call._api_id) or state.counts_of(call._api_id)
        inside = state.inside
        inside.add(call)
        if len(inside) > state.concurrency:
            inside.discard(call)
            return self._begin_otherwise(call, watching)
        call.since_s = began_s = _now_s()
        # Most handlers wait for nothing: that needs no timer, and no coroutine but theirs.
        context = _copy_context()
        try:
            reply = context.run(begin, call)
        except BaseException as error:  # noqa: BLE001 - raised again, where it is no failure of the handler
            self._failed_here(call, error)
            return None
        took_s = _now_s() - began_s
        if reply is None or took_s > BLOCKS_S or took_s > state.timeout_s:
            return self._not_at_once(call, reply, took_s, context, watching)
        call.replied = reply
        inside.remove(call)
        counts.durations[0 if took_s <= _FIRST_S else _bisect(DURATION_BUCKETS_S, took_s)] += 1
        counts.duration_sum_s += took_s
        if state.queue and (following := state.following()) is not None:
            service.begin_elsewhere(following)
        return None

    def call(self, call: Call) -> None:
        """Run `call`, and return when it has ended."""
        service, hook = self._service, call.hook
        state = call.gate = service.gates[hook]
        if not (hook.is_async or service.tracing is not None or self.is_closed):
            call.failure = None
            # As in `begin`.
            api_id = call.api_id
            counts = call.counts = state.counts.get(api_id) or state.counts_of(api_id)
            inside = state.inside
            inside.add(call)
            if len(inside) <= state.concurrency:
                call.since_s = began_s = _now_s()
                try:
                    # In a context of its own: what a handler sets there is no other call's.
                    reply = _copy_context().run(call.run)
                except BaseException as error:  # noqa: BLE001 - as in `begin`
                    self._failed_here(call, error)
                    return
                took_s = _now_s() - began_s
                if took_s > state.timeout_s:
                    self._ended_here(call, reply, took_s)
                    return
                call.replied = reply
                inside.remove(call)
                counts.durations[0 if took_s <= _FIRST_S else _bisect(DURATION_BUCKETS_S, took_s)] += 1
                counts.duration_sum_s += took_s
                if state.queue and (following := state.following()) is not None:
                    service.begin_elsewhere(following)
                return
            inside.discard(call)
        self._call_otherwise(call)

    # What it leaves to others.

    @abstractmethod
    def _begin_otherwise(
        self, call: Call, watching: AbstractContextManager[object]
    ) -> Coroutine[Any, Any, None] | None:
        """As `begin`, where nothing is done yet."""

    @abstractmethod
    def _call_otherwise(self, call: Call) -> None:
        """As `call`, the same."""

    @abstractmethod
    def _not_at_once(
        self,
        call: Call,
        reply: bytes | None,
        took_s: float,
        context: Context,
        watching: AbstractContextManager[object],
    ) -> Coroutine[Any, Any, None] | None:
        """A call has begun here, and waits, or has taken long."""

    @abstractmethod
    def _ended_here(self, call: Call, reply: bytes, took_s: float) -> None:
        """A call that ran here has ended well, if it was in time."""

    @abstractmethod
    def _failed_here(self, call: Call, error: BaseException) -> None:
        """A call that ran here was ended by `error`: raised where that is no failure of the handler."""
