"""The watchdog of a service: ends what takes too long, and has looked after what must be at all times."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import structlog

from coprocess.error_text import format_error
from coprocess.transport.workers import start_missing

if TYPE_CHECKING:
    from coprocess.runtime.call import Call
    from coprocess.runtime.service import Service

log = structlog.get_logger("coprocess")

WATCH_INTERVAL_S = 0.05


class Watchdog:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        """What must be looked after at all times."""
        service = self._service
        while not self._stopped.wait(WATCH_INTERVAL_S):
            try:
                self.end_overdue()
                if service.gateway.most_queued_s is not None:
                    self._refuse_queued(time.monotonic() - service.gateway.most_queued_s)
                service.limited_log.end_window()
                service.async_calls.tick()
                service.streaming.end_overdue(time.monotonic())
                start_missing()
            except Exception as error:  # noqa: BLE001 - without this thread, no call would be ended any more
                log.error("the watchdog failed", exception=format_error(error))

    def _refuse_queued(self, since_s: float) -> None:
        """Refuse what has waited for a place since then, or longer."""
        for state in self._service.gates.states:
            for call in list(state.queue):
                if call.since_s > since_s or not state.drop(call):
                    break  # Those behind it came later, or it runs at this moment.
                call.counts.shed += 1
                self._service.failures.shed(call)

    def end_overdue(self) -> None:
        """End sync calls that take too long: their thread is given up, and another takes its place."""
        now_s = time.monotonic()
        for thread_id, call in list(self._service.running.items()):
            # Asked for here, and not when each call begins: few have a handler that is still running.
            allowed_s = call.rpc.time_allowed_s()
            if allowed_s is not None:
                call.deadline_s = min(call.deadline_s, call.since_s + allowed_s)
            if now_s > call.deadline_s and now_s > call.deadline_s + call.rpc.held_up_s():
                try:
                    self.abandon(thread_id, call)
                except Exception as error:  # noqa: BLE001 - the others' time is over, too
                    log.error("a call that takes too long could not be ended", exception=format_error(error))

    def abandon(self, thread_id: int, call: Call) -> None:
        """End the call, and have another thread in the place of the one that runs it."""
        service = self._service
        if not call.gate.holds(call):
            return
        following: Call | None = None
        # Where as many hang as may, the call is answered, but its place in the hook stays taken.
        if service.replace(thread_id):
            # It stays in `running` until its thread takes it out, which may run another call by now.
            ended, following = call.gate.cut_off(call, time.monotonic() - call.since_s)
            if not ended:
                return  # At this moment, in time. Another thread in the place of its own does no harm.
        elif not call.timed_out:  # Told once, though it is tried again and again.
            service.limited_log.write(
                "error",
                ("not replaced",),
                "a thread that hangs cannot be replaced: as many hang as may, or none can be started",
            )
        try:
            service.failures.time_out(call)
        finally:
            # It has its place, whatever becomes of the answer.
            if following is not None:
                service.in_thread(following)
