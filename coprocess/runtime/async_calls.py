"""Calls of async handlers: on an event loop each, and each ended in time, also where the loop is blocked.

Time limits are the watchdog's, as those of sync handlers are: a timer on the loop would wait for the very
handler that blocks it. A loop that stays blocked is given up, as a thread that hangs is, and another takes
its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from typing import Any

import structlog

from coprocess.error_text import format_error
from coprocess.errors import HandlerFailed, ShuttingDown
from coprocess.loading.hooks import Hook
from coprocess.runtime import awaited, loop_tasks, prints
from coprocess.runtime.awaited import Begun
from coprocess.runtime.call import Call
from coprocess.runtime.failures import Failures
from coprocess.runtime.log_limit import LimitedLog
from coprocess.runtime.loop import LoopThread
from coprocess.runtime.loop_watch import LoopWatch
from coprocess.runtime.spare_task import SpareTask
from coprocess.switching import ShortSwitches

log = structlog.get_logger("coprocess")

#: A call that blocks the loop has so much time beyond its limit before the loop is given up.
GRACE_S = 1.0
#: Loops that were given up and are blocked still: no more than so many.
MOST_GIVEN_UP = 8
# For what ran on a loop that was given up, when that is free again.
_END_S = 5.0
# Until the process ends, for a loop that is blocked.
_BLOCKED_STOP_S = 0.5


class AsyncCalls:
    """Begins them (`begin`), and ends them in time, where another thread calls `tick` again and again."""

    def __init__(
        self,
        failures: Failures,
        limited_log: LimitedLog,
        switches: ShortSwitches,
        *,
        tick_s: float,
        timeout_s: float,
    ) -> None:
        """`timeout_s`: how long the loop may be blocked by what is no call's."""
        #: Answers calls that have failed.
        self.failures = failures
        self._limited_log = limited_log
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        #: None: no call has needed one yet.
        self.loop: LoopThread | None = None
        self._old_loops: list[LoopThread] = []
        #: Admitted, and not ended.
        self._calls: set[Call] = set()
        #: Those of them that no loop has taken up. Whoever removes one begins it, or ends it.
        self._unbegun: set[Call] = set()
        self._is_stopped = False
        self.watch = LoopWatch(tick_s, self._tell_blocked, switches)
        #: Loops that were given up, so far.
        self.given_up = 0
        #: Called back when one was: what lives on it, as async resources do, is lost.
        self.on_given_up: Callable[[], None] = lambda: None

    def begin(self, call: Call, now_s: float | None = None) -> LoopThread | None:
        """Run an admitted call and, in its place, those that waited.

        The loop that it was handed to; None: it has begun here, or nothing could take it.
        """
        if self._is_stopped:
            self._refuse(call)
            return None
        call.deadline_s = (now_s or time.monotonic()) + call.gate.timeout_s
        self._calls.add(call)
        loop = self.loop
        if loop is not None and loop.is_reading and loop.thread_id == threading.get_ident():
            self._begin_here(loop, call)
            return None
        self._unbegun.add(call)
        self._submit(call)
        return self.loop

    def is_read_here(self) -> bool:
        """Whether this thread is the loop's, and reads calls there at this moment."""
        loop = self.loop
        return loop is not None and loop.is_reading and loop.thread_id == threading.get_ident()

    def _begin_here(self, loop: LoopThread, call: Call) -> None:
        """On the loop, which reads calls: run its first step now. Most need no other."""
        spare = loop.spare or loop.make_spare(self._go_on)
        # What this step begins is no step of its own yet: none can be run within another.
        loop.is_reading = False
        try:
            rest = spare.run(self._first_step, call)
            if rest is None:
                spare.owner = None
                self._calls.discard(call)
                following = call.gate.leave(call, time.monotonic() - call.since_s)
                if following is not None:
                    self.begin(following)
                if spare.is_as_new:
                    return
            loop.spare = None
            self._go_on_later(loop, spare, call, rest)
        finally:
            loop.is_reading = True

    def _go_on_later(
        self, loop: LoopThread, spare: SpareTask, call: Call, rest: Awaitable[bytes] | None
    ) -> None:
        """Of a call that has begun: what is left of it, or of its task, where somebody has that still."""
        task = spare.task
        if rest is not None:
            spare.rest = rest
            call.loop, call.task = loop, task
        loop.begin_task(spare)
        if rest is not None and not task.done():
            call.rpc.on_cancel(partial(loop.cancel, task))
            if not call.gate.holds(call):  # It was ended before it had a task.
                loop.cancel(task)

    def _first_step(self, call: Call) -> Awaitable[bytes] | None:
        """In the context of the call. What is left, where its handler waits."""
        try:
            try:
                if self.failures.tracing is None and type(call).run_async is Call.run_async:
                    reply = awaited.begin(call)
                    if reply is None:
                        return awaited.rest(call)
                else:
                    coroutine = self.running(call)
                    try:
                        waits_for = coroutine.send(None)
                    except StopIteration as done:
                        reply = done.value
                    else:
                        return Begun(coroutine, waits_for)
            except (HandlerFailed, asyncio.CancelledError) as error:
                self.end_badly(call, error)
            else:
                call._rpc.respond(reply)  # As in `Service._run`.
        except Exception as error:  # noqa: BLE001 - as in `_run`
            self.failures.fail_within(call, error)
        if prints.has_printed:
            prints.end_line()
        return None

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Run `coroutine` on the loop of the handlers, from any other thread. Raises RuntimeError."""
        loop = None if self._is_stopped else self.loop or self._start_loop()
        outcome: Future[Any] = Future()
        if loop is None or not loop.call_soon(
            lambda: loop.run_task(loop_tasks.run_spawned(loop, coroutine, outcome), None)
        ):
            coroutine.close()
            raise RuntimeError("no event loop runs")
        return outcome

    def cancel_left(self, is_gone: Callable[[Hook], bool]) -> None:
        """Cancel the tasks that calls left behind on the loop, of hooks that are gone."""
        loop = self.loop
        if loop is not None:
            loop.call_soon(loop.cancel_left, is_gone)

    def _submit(self, call: Call) -> None:
        loop = call.loop = self.loop or self._start_loop()
        if loop is not None:
            loop.call_soon(self._start, loop, call)

    def _start(self, loop: LoopThread, call: Call) -> None:
        try:
            self._unbegun.remove(call)
        except KeyError:
            return  # It has ended, or another loop has it.
        task = call.task = loop.run_task(loop_tasks.run_admitted(self, call), call)

        def cancel() -> None:
            loop.cancel(task)

        call.rpc.on_cancel(cancel)

    # What `loop_tasks` asks for.

    def running(self, call: Call) -> Coroutine[Any, Any, bytes]:
        tracing = self.failures.tracing
        return call.run_async() if tracing is None else tracing.run_async(call)

    def end_badly(self, call: Call, error: BaseException) -> None:
        """Answer one that `error` has ended."""
        if not isinstance(error, HandlerFailed):
            # The client gave up, or its time is over, or the service stops: an answer does no harm.
            call.fail(ShuttingDown.status, "cancelled")
        elif call.gate.holds(call):
            self.failures.fail(call, error)

    def leave(self, call: Call) -> None:
        """Give the place of one that has run to whoever waits for it."""
        self._calls.discard(call)
        # Its context has the call: a cycle for each would be the collector's.
        call.task = None
        following = call.gate.leave(call, time.monotonic() - call.since_s)
        if following is not None:
            self.begin(following)

    def _go_on(self, spare: SpareTask) -> Coroutine[Any, Any, None]:
        return loop_tasks.go_on(self, spare)

    def _start_loop(self) -> LoopThread | None:
        """None where that cannot be now: `tick` tries again."""
        with self._lock:
            if self.loop is None and not self._is_stopped:
                try:
                    self.loop = LoopThread(self._limited_log)
                except (RuntimeError, OSError) as error:
                    self._limited_log.write(
                        "error",
                        ("no loop",),
                        "no event loop can be started: it is tried again",
                        reason=str(error),
                    )
                self.watch.watch(self.loop)
            return self.loop

    # What the watchdog does.

    def tick(self) -> None:
        """End what is overdue, and give up a loop that stays blocked."""
        now_s = time.monotonic()
        for call in list(self._calls):
            if self.watch.is_blocked:
                # Else the loop itself ends them, when the engine says that the client's time is over.
                allowed_s = call.rpc.time_allowed_s()
                if allowed_s is not None:
                    call.deadline_s = min(call.deadline_s, call.since_s + allowed_s)
            if now_s > call.deadline_s and now_s > call.deadline_s + call.rpc.held_up_s():
                try:
                    self._end(call, self.failures.time_out)
                except Exception as error:  # noqa: BLE001 - the others' time is over, too
                    log.error("a call that takes too long could not be ended", exception=format_error(error))
        self.watch.tick()
        loop = self.loop
        if loop is not None and (not loop.is_alive or self._is_to_be_given_up(loop, now_s)):
            self._give_up(loop)
        for call in list(self._unbegun):
            if call.loop is None or call.loop is not self.loop:
                self._submit(call)

    def _end(self, call: Call, answer: Callable[[Call], None]) -> None:
        """End a call whatever its task does."""
        self._unbegun.discard(call)
        self._calls.discard(call)
        ended, following = call.gate.cut_off(call, time.monotonic() - call.since_s)
        try:
            if ended:
                answer(call)
                task, loop = call.task, call.loop  # The loop forgets the task when that ends.
                if task is not None and loop is not None:
                    loop.cancel(task)
        finally:
            if following is not None:
                self.begin(following)

    def _is_to_be_given_up(self, loop: LoopThread, now_s: float) -> bool:
        if not self.watch.is_blocked:
            return False
        owner, _ = loop.running()
        if isinstance(owner, Call):
            return now_s > owner.deadline_s + GRACE_S
        return self.watch.blocks_for_s > self._timeout_s + GRACE_S

    def _give_up(self, loop: LoopThread) -> None:
        """Answer what runs on `loop`; what has not begun, and what comes, gets another."""
        self._old_loops = [old for old in self._old_loops if old.is_alive]
        if len(self._old_loops) >= MOST_GIVEN_UP:
            self._tell("an event loop that is blocked cannot be given up: as many are as may", {}, "error")
            return
        owner, _ = loop.running()
        self._old_loops.append(loop)
        with self._lock:
            self.loop = None
            self.watch.watch(None)
        self.given_up += 1
        self.on_given_up()
        why = "a handler blocks it" if loop.is_alive else "it has ended"
        self._tell(f"the event loop was given up, as {why}: another takes its place", _tags(owner), "error")
        # When it is free again.
        loop.end(_END_S)
        for call in loop.owners:
            if isinstance(call, Call):
                self._end(call, self._fail_with_loop)

    def _fail_with_loop(self, call: Call) -> None:
        text = (
            f'{call.hook_type} hook "{call.hook_name}" was given up: another handler blocked the event loop'
        )
        self.failures.fail(call, HandlerFailed(text))

    def _tell_blocked(self, owner: object, stack: list[str]) -> None:
        tags = _tags(owner)
        self._tell("an async handler blocks: all async handlers wait for it", tags, "warning", frames=stack)

    def tell_blocked_elsewhere(self, call: Call, took_s: float) -> None:
        """A call has held up a loop that is not the service's own, and is watched by nobody."""
        self.watch.blocked += 1
        self.watch.blocked_s += took_s
        event = "an async handler has blocked the event loop of the app: all that it serves waited"
        self._tell(event, _tags(call), "warning", seconds=round(took_s, 3))

    def _tell(self, event: str, tags: dict[str, Any], level: Any, **fields: Any) -> None:
        self._limited_log.write(level, (event, *tags.values()), event, **tags, **fields)

    def stop(self, timeout_s: float) -> None:
        """Cancel what runs, and end the loop. All is answered when this returns, in `timeout_s` at most."""
        with self._lock:
            self._is_stopped = True
            loop = self.loop
        if loop is not None:
            if self.watch.is_blocked:
                timeout_s = min(timeout_s, _BLOCKED_STOP_S)
            loop.end(timeout_s)
            loop.join(timeout_s)
        self.watch.watch(None)
        for call in list(self._calls):
            with contextlib.suppress(Exception):  # The others want their answer, too.
                self._end(call, _cancelled)

    def _refuse(self, call: Call | None) -> None:
        while call is not None:
            _cancelled(call)
            call = call.gate.leave(call, time.monotonic() - call.since_s)


def _cancelled(call: Call) -> None:
    call.fail(ShuttingDown.status, "cancelled")


def _tags(owner: object) -> dict[str, Any]:
    if not isinstance(owner, Call):
        return {}
    return {"hook": owner.hook_name, "hook_type": owner.hook_type}
