"""One call of a handler: what every gateway's calls have, how the handler runs, and where the call stands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mypy_extensions import mypyc_attr

from coprocess.api.app import App
from coprocess.api.context import current_call
from coprocess.api.messages import Reject, Reply
from coprocess.api.state import State
from coprocess.error_text import name_of, text_of
from coprocess.errors import BadBody, HandlerFailed, Status
from coprocess.loading.hooks import NO_HEADERS, Hook
from coprocess.runtime import awaited, unawaited
from coprocess.runtime.forked import end_child, origin

if TYPE_CHECKING:
    from coprocess.runtime.handlers_task import HandlersTask
    from coprocess.runtime.hook_state import HookCounts, HookState
    from coprocess.runtime.loop import LoopThread
    from coprocess.transport.engine import Rpc


@mypyc_attr(allow_interpreted_subclasses=True)
class Call:
    """What a gateway opens and the service runs: with `run` where the hook is sync, else `run_async`.

    Both give the reply, serialized, and raise HandlerFailed where the handler fails; its cause is what
    the handler raised.
    """

    __slots__ = (
        "_rpc",
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

    _rpc: Rpc
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
    begun: awaited.Begun
    _state: State
    #: The name of a coroutine that its code has thrown away; see `runtime.unawaited`. Absent: none.
    unawaited: str
    #: The tasks that its code has begun; see there, too. Absent, or empty: none.
    begun_tasks: list[HandlersTask]
    #: Resources open or close for it, whose tasks live as long as they do. Absent: False.
    is_aside: bool
    #: For code that an App puts around handlers (`loading.whole_call`): set while that runs.
    resources: Any
    outcome: Any
    error: BaseException | None

    @property
    def rpc(self) -> Rpc:
        """Who waits for the answer; from `arrive` on."""
        return self._rpc

    @rpc.setter
    def rpc(self, rpc: Rpc) -> None:
        self._rpc = rpc

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

    def arrive(self, rpc: Rpc, gate: HookState[Call], since_s: float) -> None:
        """Come to the gate of its hook."""
        self._rpc = rpc
        self.gate = gate
        self.since_s = since_s
        self.deadline_s = 0.0
        self.timed_out = False
        self.loop = self.task = self.start = None

    def run(self) -> bytes:
        """To be called in a context of its own."""
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
            try:
                return self.ended_by(error)
            finally:
                current_call.reset(token)  # What is logged now knows the call. Else its context ends with it.
        finally:
            if origin.call is self:
                end_child()

    def run_async(self) -> Coroutine[Any, Any, bytes]:
        """Begin, and go on until it has ended."""
        return awaited.run(self)

    def ended_by(self, error: BaseException) -> bytes:
        """The reply of a call that `error` has ended. Raises HandlerFailed where it has failed."""
        if isinstance(error, Reject | BadBody):
            try:
                if isinstance(error, Reject):
                    self.reject(error)
                else:
                    self.refuse_body(error)
                return self.finish()
            except BaseException as failure:  # noqa: BLE001 - passed on
                error = failure
        failed = self._failure(error)
        failed.__cause__ = error  # Not by `from`: what mypyc compiles leaves that out.
        try:
            raise failed
        finally:
            del failed, error  # They know this frame: a cycle for each failure would be the collector's.

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
