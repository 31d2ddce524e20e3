"""The event loop, in a thread of its own, on which async handlers run."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

from coprocess.error_text import text_of
from coprocess.loading.hooks import Hook
from coprocess.runtime.handlers_task import TaskFactory
from coprocess.runtime.log_limit import LimitedLog
from coprocess.runtime.spare_task import SpareTask


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        # Not by the policy, which handler code may have set.
        return asyncio.SelectorEventLoop()
    return uvloop.new_event_loop()


class LoopThread:
    """One loop, which runs until it is told to end, whatever handlers do to it."""

    def __init__(self, limited_log: LimitedLog) -> None:
        """Raises RuntimeError where no thread can be started, OSError where there is no free descriptor."""
        self._limited_log = limited_log
        self._loop = _new_event_loop()
        #: What runs, and for whom.
        self._tasks: dict[asyncio.Task[None], object] = {}
        #: Tasks that handlers started, and the hook whose call did.
        self._left: WeakKeyDictionary[asyncio.Task[Any], Hook] = WeakKeyDictionary()
        self._loop.set_task_factory(TaskFactory(note=self._left.__setitem__))
        #: What other threads want to be called: one wake-up is for all that came until then.
        self._handed: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._is_woken = False
        self._is_over = False
        #: Whether an engine reads calls on it at this moment, and what is called when it runs no more.
        self.is_reading = False
        self.on_end: list[Callable[[], None]] = []
        #: In which handlers begin that are run while calls are read.
        self.spare: SpareTask | None = None
        self.call_later = self._loop.call_later
        self.add_reader, self.remove_reader = self._loop.add_reader, self._loop.remove_reader
        #: Each call that it reads asks for it.
        self.thread_id: int | None = None
        self._thread = threading.Thread(target=self._run, name="async-handlers", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._loop.close()
            raise
        self.thread_id = self._thread.ident

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def current(self) -> object:
        """The task that runs at this moment, from any thread."""
        return asyncio.current_task(self._loop)

    @property
    def has_tasks(self) -> bool:
        return bool(self._tasks or self._left)

    @property
    def owners(self) -> list[object]:
        """For whom there are tasks."""
        spare = self.spare
        begins = [] if spare is None or spare.owner is None else [spare.owner]
        return begins + list(self._tasks.values())

    def make_spare(self, go_on: Callable[[SpareTask], Coroutine[Any, Any, None]]) -> SpareTask:
        """To be called on the loop."""
        spare = self.spare = SpareTask(self._loop, go_on)
        return spare

    def call_soon(self, callback: Callable[..., object], *arguments: Any) -> bool:
        """Run `callback` on the loop, from any thread. False where it does not run any more."""
        if self._loop.is_closed():
            return False
        self._handed.append((callback, arguments))
        if self._is_woken:
            return True  # By somebody just before, for what there is by then.
        self._is_woken = True
        try:
            self._loop.call_soon_threadsafe(self._take_handed)
        except RuntimeError:
            self._is_woken = False
            return False
        return True

    def cancel(self, task: asyncio.Task[Any]) -> None:
        """From any thread."""
        # After its first step, which the loop has been asked for: a task that never begins ends nothing.
        self.call_soon(self._loop.call_soon, task.cancel)

    def _take_handed(self) -> None:
        # First: what is handed over from here on wakes the loop anew.
        self._is_woken = False
        for _ in range(len(self._handed)):
            callback, arguments = self._handed.popleft()
            try:
                callback(*arguments)
            except Exception as error:  # noqa: BLE001 - the others are to be called, too
                self._tell("what another thread handed to the event loop failed", raised=text_of(error))

    def run_task(self, coroutine: Coroutine[Any, Any, None], owner: object) -> asyncio.Task[None]:
        """Run `coroutine`, in a context of its own. To be called on the loop."""
        # Not create_task(): a handler may have set a task factory that takes no context.
        task = asyncio.Task(coroutine, loop=self._loop, context=Context())
        self._tasks[task] = owner
        task.add_done_callback(self._tasks.pop)
        return task

    def begin_task(self, spare: SpareTask) -> None:
        """Have `spare`, in which a handler has begun, go on as a task of its own."""
        task = spare.task
        self._tasks[task] = spare.owner
        try:
            spare.begin()
        finally:
            if task.done():
                self._tasks.pop(task, None)
            else:
                task.add_done_callback(self._tasks.pop)

    def cancel_left(self, is_gone: Callable[[Hook], bool]) -> None:
        """Cancel tasks that were started by calls of hooks that are gone. To be called on the loop."""
        for task, hook in list(self._left.items()):
            if is_gone(hook):
                task.cancel()

    def running(self) -> tuple[object, FrameType | None]:
        """The owner of the task that runs at this moment, and where it is; None: no such task, or none's."""
        if self._thread.ident is None:
            return None, None
        task = asyncio.current_task(self._loop)
        spare = self.spare
        if spare is not None and task is spare.task:
            owner = spare.owner
        else:
            owner = None if task is None else self._tasks.get(task)
        return owner, sys._current_frames().get(self._thread.ident)

    def _run(self) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        while not self._is_over and not loop.is_closed():
            try:
                loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                # Of a task that a handler started: asyncio ends its loop for these. The others run on.
                raised = f"{type(error).__name__}({text_of(error)!r})"
                self._tell("a task of a handler ended with what would end a program", raised=raised)
            except Exception as error:  # noqa: BLE001 - whatever a handler broke, the others' calls are here
                self._tell("the event loop failed, and runs on", raised=text_of(error))
                time.sleep(_PAUSE_S)
            else:
                if not self._is_over:
                    self._tell("a handler stopped the event loop: it runs on")
        for callback in self.on_end:
            callback()
        if self.spare is not None:
            self.spare.drop()
        loop.close()

    def _tell(self, event: str, **fields: Any) -> None:
        self._limited_log.write("error", (event,), event, **fields)

    def end(self, timeout_s: float) -> None:
        """Cancel what runs and, when that has ended or after `timeout_s`, end the thread. Does not wait."""

        async def finish() -> None:
            try:
                current = asyncio.current_task()
                # Those that handlers left, too.
                tasks = [task for task in asyncio.all_tasks(self._loop) if task is not current]
                for task in tasks:
                    task.cancel()
                if tasks:
                    await asyncio.wait(tasks, timeout=timeout_s)
                await self._loop.shutdown_asyncgens()
            finally:
                self._is_over = True
                self._loop.stop()

        self.call_soon(lambda: self.run_task(finish(), None))

    def join(self, timeout_s: float) -> None:
        """Wait for the thread's end, `timeout_s` at most."""
        self._thread.join(timeout_s)


# Before a loop that fails is run again.
_PAUSE_S = 0.05
