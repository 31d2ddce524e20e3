"""One call of a handler: what every gateway's calls have, how the handler runs, and where the call stands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from coprocess.api.app import App
from coprocess.api.context import current_call
from coprocess.api.messages import Reject, Reply
from coprocess.api.state import State
from coprocess.error_text import name_of, text_of
from coprocess.errors import BadBody, HandlerFailed
from coprocess.loading.hooks import NO_HEADERS, Hook
from coprocess.runtime.forked import end_child, origin

if TYPE_CHECKING:
    from coprocess.runtime.hook_state import HookCounts, HookState
    from coprocess.runtime.loop import LoopThread
    from coprocess.transport.engine import Rpc


class Call:
    """What a gateway opens and the service runs: with `run` where the hook is sync, else `run_async`.

    Both give the reply, serialized, and raise HandlerFailed where the handler fails; its cause is what
    the handler raised.
    """

    __slots__ = (
        "_state",
        "counts",
        "deadline_s",
        "ended",
        "error",
        "gate",
        "hook",
        "loop",
        "outcome",
        "resources",
        "rpc",
        "since_s",
        "start",
        "task",
        "timed_out",
    )

    hook: Hook
    #: Who waits for the answer, and the gate of the hook; from `arrive` on.
    rpc: Rpc
    gate: HookState[Call]
    #: time.monotonic() when it came.
    since_s: float
    #: The same at which it has taken too long; set when it begins to run.
    deadline_s: float
    #: Where it is counted; set when it enters the gate.
    counts: HookCounts
    #: Set, under the gate's lock, by whoever ends it first: its thread or task, or the watchdog or timer.
    ended: bool
    #: Its client was told that it took too long.
    timed_out: bool
    #: Where it is async: the loop that it was given to, and its task there.
    loop: LoopThread | None
    task: asyncio.Task[None] | None
    #: Where its caller runs it itself (`runtime.in_process`): tells that one, from any thread, to begin.
    start: Callable[[], object] | None
    _state: State
    #: For code that an App puts around handlers (`loading.lifecycle`): set while that runs.
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
        self.rpc, self.gate, self.since_s = rpc, gate, since_s
        self.deadline_s = 0.0
        self.ended = self.timed_out = False
        self.loop = self.task = self.start = None

    def run(self) -> bytes:
        token = current_call.set(self)
        try:
            hook = self.hook
            try:
                result = hook.function(*hook.plan.arguments(self))
                if result is not None:
                    hook.plan.accept(self, result)
            except Reject as reject:
                self.reject(reject)
            except BadBody as error:
                self.refuse_body(error)
            return self.finish()
        except BaseException as error:
            # SystemExit and KeyboardInterrupt of a handler too: they end its call, not the service.
            raise self._failure(error) from error
        finally:
            if origin.call is self:
                end_child()
            current_call.reset(token)

    async def run_async(self) -> bytes:
        token = current_call.set(self)
        try:
            hook = self.hook
            try:
                result = hook.function(*hook.plan.arguments(self))
                if hasattr(result, "__await__"):
                    result = await result
                if result is not None:
                    hook.plan.accept(self, result)
            except Reject as reject:
                self.reject(reject)
            except BadBody as error:
                self.refuse_body(error)
            return self.finish()
        except asyncio.CancelledError as error:
            # Of somebody who ended this task, or of the handler's own making: that fails like any other.
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            raise self._failure(error) from error
        except BaseException as error:
            raise self._failure(error) from error
        finally:
            if origin.call is self:
                end_child()
            try:
                current_call.reset(token)
            except ValueError:
                # Another context: the collector closes what was left of a loop that was given up.
                raise GeneratorExit from None

    def _failure(self, error: BaseException) -> HandlerFailed:
        what = text_of(error) if isinstance(error, HandlerFailed) else f"raised {name_of(error)}"
        return HandlerFailed(f'{self.hook_type} hook "{self.hook_name}" {what}')

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

    def unchanged(self) -> bytes | None:
        """The answer that changes nothing, whatever the handler did; None where this call has none."""
        return None

    def refused(self, status: int, message: str, headers: Iterable[tuple[str, str]] = ()) -> bytes | None:
        """The answer that refuses the request, whatever the handler did; None where this call has none."""
        return None
