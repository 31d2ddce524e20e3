"""The event loop, in a thread of its own, on which async handlers run."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

import structlog

log = structlog.get_logger("coprocess")


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class LoopThread:
    """Started when the first coroutine is submitted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        #: What was submitted and has not ended, and for whom.
        self._tasks: dict[asyncio.Task[None], object] = {}

    def submit(
        self,
        make: Callable[[], Coroutine[Any, Any, None]],
        started: Callable[[asyncio.Task[None]], None],
        owner: object,
    ) -> None:
        """Run the coroutine that `make` gives, for `owner`. `started` gets its task, on the loop."""
        loop = self._loop or self._start()
        loop.call_soon_threadsafe(self._begin, make, started, owner)

    @property
    def is_running(self) -> bool:
        return self._loop is not None and not self._loop.is_closed()

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Run `callback` on the loop, from any thread; not where it does not run any more."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(callback)

    def running(self) -> tuple[object, FrameType | None]:
        """The owner of the task that runs at this moment, and where it is; None: no such task, or none's."""
        if self._loop is None or self._thread is None or self._thread.ident is None:
            return None, None
        task = asyncio.current_task(self._loop)
        owner = None if task is None else self._tasks.get(task)
        return owner, sys._current_frames().get(self._thread.ident)

    def _begin(
        self,
        make: Callable[[], Coroutine[Any, Any, None]],
        started: Callable[[asyncio.Task[None]], None],
        owner: object,
    ) -> None:
        task = asyncio.get_running_loop().create_task(make())
        self._tasks[task] = owner
        task.add_done_callback(self._tasks.pop)
        started(task)

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = _new_event_loop()
                self._thread = threading.Thread(
                    target=self._run, args=(loop,), name="async-handlers", daemon=True
                )
                self._thread.start()
                self._loop = loop
            return self._loop

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        while True:
            try:
                loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                # Of a task that a handler started: asyncio ends its loop for these. The others run on.
                log.error("a task of a handler ended with what would end a program", raised=repr(error))
            else:
                return

    def stop(self, timeout_s: float) -> None:
        """Cancel what runs, and end the thread, which takes at most `timeout_s`."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return

        async def finish() -> None:
            current = asyncio.current_task()
            tasks = [task for task in self._tasks if task is not current]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=timeout_s)
            await loop.shutdown_asyncgens()
            loop.stop()

        asyncio.run_coroutine_threadsafe(finish(), loop)
        thread.join(timeout_s)
        if not thread.is_alive():
            loop.close()
