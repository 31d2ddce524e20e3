"""One call of a handler: what every gateway's calls have, how the handler runs, and where the call stands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from coprocess.api.app import App
from coprocess.api.context import current_call
from coprocess.api.messages import Reject, Reply
from coprocess.api.state import State
from coprocess.error_text import name_of, text_of
from coprocess.errors import BadBody, HandlerFailed, Status
from coprocess.loading.hooks import NO_HEADERS, Hook
from coprocess.runtime import unawaited
from coprocess.runtime.forked import end_child, origin

if TYPE_CHECKING:
    from coprocess.runtime.handlers_task import HandlersTask
    from coprocess.runtime.hook_state import HookCounts, HookState
    from coprocess.runtime.loop import LoopThread
    from coprocess.transport.engine import Rpc


class Begun:
    """A coroutine that has begun, and waits for `waits_for`: what comes of it, to be awaited."""

    __slots__ = ("_coroutine", "_waits_for", "is_closed")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for
        #: Whoever waited for it was closed, and not what it raised: its loop runs no more.
        self.is_closed = False

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, waits_for = self._coroutine, self._waits_for
        while True:
            try:
                try:
                    sent = yield waits_for
                except GeneratorExit:
                    self.is_closed = True
                    coroutine.close()
                    raise
                except BaseException as error:  # noqa: BLE001 - passed on
                    waits_for = coroutine.throw(error)
                else:
                    waits_for = coroutine.send(sent)
            except StopIteration as done:
                return done.value


def _is_cancelled() -> bool:
    """Whether somebody ends this task: else a CancelledError is of the handler's making, and fails it."""
    return (task := asyncio.current_task()) is not None and bool(task.cancelling())


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


class Call:
    """What a gateway opens and the service runs: with `run` where the hook is sync, else `run_async`.

    Both give the reply, serialized, and raise HandlerFailed where the handler fails; its cause is what
    the handler raised.
    """

    __slots__ = (
        "_state",
        "begun",
        "begun_tasks",
        "counts",
        "deadline_s",
        "error",
        "failure",
        "gate",
        "hook",
        "is_aside",
        "loop",
        "outcome",
        "replied",
        "resources",
        "rpc",
        "since_s",
        "start",
        "task",
        "timed_out",
        "unawaited",
    )

    hook: Hook
    #: The gate of the hook; from `arrive` on, or where its caller runs it itself.
    gate: HookState[Call]
    #: time.monotonic() when it came.
    since_s: float
    #: Where it is counted; set when it comes to the gate.
    counts: HookCounts

    # From `arrive` on.

    #: Who waits for the answer.
    rpc: Rpc
    #: time.monotonic() at which it has taken too long; 0 before it begins to run.
    deadline_s: float
    #: Its client was told that it took too long.
    timed_out: bool
    #: Where it is async: the loop that it was given to, and its task there.
    loop: LoopThread | None
    task: asyncio.Task[None] | None
    #: Where its caller is in this process (`runtime.in_process`): tells that one, from any thread, to begin.
    start: Callable[[], object] | None

    # Where its caller is in this process, when it has ended.

    #: How; None: with `replied`.
    failure: tuple[Status, str] | None
    replied: bytes

    #: Where it is async: what is left of its handler, which waits.
    begun: Begun
    _state: State
    #: The name of a coroutine that its code has thrown away; see `runtime.unawaited`. Absent: none.
    unawaited: str
    #: The tasks that its code has begun; see there, too. Absent: none.
    begun_tasks: list[HandlersTask]
    #: Resources open or close for it, whose tasks live as long as they do. Absent: False.
    is_aside: bool
    #: For code that an App puts around handlers (`loading.whole_call`): set while that runs.
    resources: Any
    outcome: Any
    error: BaseException | None

    @property
    def state(self) -> State:
        """What the code of this call shares."""
        try:
            return self._state
        except AttributeError:
            self._state = State()
            return self._state

    @property
    def app(self) -> App | None:
        return self.hook.app

    @property
    def event_sink(self) -> Callable[[str, str], None] | None:
        """What takes the events that this call triggers; None: what takes the process's."""
        return None

    def __init__(self, hook: Hook) -> None:
        self.hook = hook

    def arrive(self, rpc: Rpc, gate: HookState[Call], since_s: float) -> None:
        """Come to the gate of its hook."""
        self.rpc = rpc
        self.gate = gate
        self.since_s = since_s
        self.deadline_s = 0.0
        self.timed_out = False
        self.loop = self.task = self.start = None

    def run(self) -> bytes:
        token = current_call.set(self)
        try:
            hook = self.hook
            result = hook.function(*hook.plan.arguments(self))
            if result is not None:
                hook.plan.accept(self, result)
            if unawaited.has_any:
                unawaited.expect_awaited(self)
            return self.finish()
        except BaseException as error:  # noqa: BLE001 - SystemExit, too: it ends its call, not the service
            return self._ended_by(error)
        finally:
            if origin.call is self:
                end_child()
            current_call.reset(token)

    def begin(self) -> bytes | None:
        """Run an async handler as far as it goes without waiting, in this context, which is the call's own.

        None where it waits: then `rest` has what is left.
        """
        current_call.set(self)
        try:
            hook = self.hook
            result = hook.function(*hook.plan.arguments(self))
            if type(result) is CoroutineType or hasattr(result, "__await__"):
                if type(result) is not CoroutineType:
                    result = _awaited(result)
                try:
                    waits_for = result.send(None)
                except StopIteration as done:
                    result = done.value
                else:
                    self.begun = Begun(result, waits_for)
                    return None
            if result is not None:
                hook.plan.accept(self, result)
            if unawaited.has_any:
                unawaited.expect_awaited(self)
            return self.finish()
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            return self._ended_by(error)
        except BaseException as error:  # noqa: BLE001 - as in `run`
            return self._ended_by(error)
        finally:
            if origin.call is self:
                end_child()

    async def rest(self) -> bytes:
        """What is left of a call that has begun, and waits."""
        begun = self.begun
        try:
            result = await begun
            if result is not None:
                self.hook.plan.accept(self, result)
            if unawaited.has_any:
                unawaited.expect_awaited(self)
            return self.finish()
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            return self._ended_by(error)
        except BaseException as error:
            if begun.is_closed:
                raise  # Of a loop that was given up: nobody waits.
            return self._ended_by(error)
        finally:
            if origin.call is self:
                end_child()

    async def run_async(self) -> bytes:
        reply = self.begin()
        return await self.rest() if reply is None else reply

    def _ended_by(self, error: BaseException) -> bytes:
        """The reply of a call that `error` has ended. Raises HandlerFailed where it has failed."""
        if isinstance(error, Reject | BadBody):
            try:
                if isinstance(error, Reject):
                    self.reject(error)
                else:
                    self.refuse_body(error)
                return self.finish()
            except BaseException as failure:
                raise self._failure(failure) from failure
        raise self._failure(error) from error

    def _failure(self, error: BaseException) -> HandlerFailed:
        what = text_of(error) if isinstance(error, HandlerFailed) else f"raised {name_of(error)}"
        return HandlerFailed(f'{self.hook_type} hook "{self.hook_name}" {what}')

    def note_task(self, task: HandlersTask) -> None:
        """Its code has begun `task`."""
        unawaited.note_task(self, task)

    @property
    def hook_type(self) -> str:
        return self.hook.type.name

    @property
    def hook_name(self) -> str:
        return self.hook.name

    @property
    def version(self) -> str:
        return self.hook.version

    def reject(self, reject: Reject) -> None:
        """Take a rejection as the outcome."""
        raise NotImplementedError

    def refuse_body(self, error: BadBody) -> None:
        """Take a body that the handler could not read as the outcome; or raise `error`, as a failure."""
        raise error

    def finish(self) -> bytes:
        """The reply, as the outcome has it so far."""
        raise NotImplementedError

    @property
    def api_id(self) -> str:
        """Empty where the gateway did not say."""
        raise NotImplementedError

    @property
    def org_id(self) -> str:
        """As `api_id`."""
        raise NotImplementedError

    @property
    def request_headers(self) -> Mapping[str, str]:
        """The headers of the client's request, as the gateway sent them; empty where there is none."""
        return NO_HEADERS

    def reply(self, reply: Reply) -> None:
        """Take `reply` as the outcome."""
        raise NotImplementedError

    def fail(self, status: Status, message: str) -> None:
        """End it with an error, from any thread, as its client takes one."""
        self.rpc.fail(status, message)

    def unchanged(self) -> bytes | None:
        """The answer that changes nothing, whatever the handler did; None where this call has none."""
        return None

    def refused(self, status: int, message: str, headers: Iterable[tuple[str, str]] = ()) -> bytes | None:
        """The answer that refuses the request, whatever the handler did; None where this call has none."""
        return None
