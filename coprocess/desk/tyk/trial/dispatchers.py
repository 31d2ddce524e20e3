"""Plugin servers for the simulated gateway: the handlers in this process, or a service that runs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Iterator
from contextvars import Context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from coprocess.api import context
from coprocess.desk.handler_loop import HandlerLoop
from coprocess.desk.tyk.simulator import RpcError
from coprocess.desk.tyk.trial import debugging
from coprocess.desk.tyk.trial.output import collecting_output
from coprocess.desk.tyk.trial.tls import ClientTls
from coprocess.errors import CoprocessError, HandlerFailed, TimedOut
from coprocess.gateways.tyk.call import TykCall
from coprocess.gateways.tyk.dispatcher import Dispatcher
from coprocess.gateways.tyk.event import TykEvent, local_event_payload, parse_event
from coprocess.gateways.tyk.wire import DISPATCH, DISPATCH_EVENT, Event, Object
from coprocess.loading.hooks import Hook, HookTable
from coprocess.loading.loader import Loaded, Problem
from coprocess.runtime.call import Call

if TYPE_CHECKING:
    import grpc

_MOST_TRIGGERED = 100


@dataclass(slots=True)
class HandlerRun:
    """One call of a handler, as the plugin server sees it. What a running service keeps to itself is None."""

    hook: Hook | None = None
    sent: Object | None = None
    #: As the handler left it, before the reply guard; None where it did not come so far.
    left: Object | None = None
    #: As the reply guard made it, complete.
    guarded: Object | None = None
    event: TykEvent | None = None
    #: Whether a handler triggered the event, and not the gateway.
    is_local: bool = False
    #: How it failed, with what the handler raised as its cause; None where it did not.
    error: CoprocessError | RpcError | None = None
    #: Failed, and passed on unchanged or answered by the service's own settings all the same.
    is_answered: bool = False
    output: list[str] = field(default_factory=list)
    seconds: float = 0.0


class ObservedCall(TykCall):
    """A call that keeps what the handler left."""

    __slots__ = ("guarded", "left")

    left: Object | None
    guarded: Object | None

    def finish(self) -> bytes:
        self.left = _copy(self.message)
        twin = TykCall(self.hook, _copy(self.message), self.payload, full_reply=True)
        twin.passed_raw = self.was_edited_raw
        self.guarded = Object.FromString(twin.finish())
        return super().finish()


def _copy(message: Object) -> Object:
    twin = Object()
    twin.CopyFrom(message)
    return twin


class InProcessDispatcher:
    """Calls the handlers of `table` as the service does, one at a time; each call is one of `runs`.

    Sync handlers run in the caller's thread, async ones on one event loop in a thread of its own. A
    handler is not cut off at its time limit, but its call fails all the same. Use it in `with`: until
    then it also takes the events that handlers trigger, and runs them when the call has ended.
    """

    def __init__(
        self,
        table: HookTable,
        *,
        timeout_s: float = 30.0,
        failure_status: int | None = None,
        failure_headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.runs: list[HandlerRun] = []
        self._dispatcher = Dispatcher(table)
        self._timeout_s = timeout_s
        self._failure_status = failure_status
        self._failure_headers = tuple(failure_headers)
        #: Where async handlers run, and async resources live.
        self.loop = HandlerLoop()
        self._triggered: list[tuple[str, str, dict[str, str]]] = []

    def __enter__(self) -> InProcessDispatcher:
        context.set_event_sink(self._trigger)
        return self

    def __exit__(self, *_: object) -> None:
        context.set_event_sink(None)
        self.loop.close()

    @contextlib.contextmanager
    def opening(self, loaded: Loaded, timeout_s: float = 30.0) -> Iterator[list[Problem]]:
        """The resources of `loaded` are open within. Gives what did not open; its handlers are gone."""
        known = len(loaded.problems)
        loaded.open(self.loop.spawn, timeout_s)
        self._dispatcher.table = loaded.table
        try:
            yield loaded.problems[known:]
        finally:
            loaded.close(timeout_s)

    def dispatch(self, serialized_object: bytes, /) -> bytes:
        run = HandlerRun(sent=Object.FromString(serialized_object))
        self.runs.append(run)
        try:
            opened = self._dispatcher.open_dispatch(serialized_object)
        except CoprocessError as error:
            run.error = error
            raise _rpc_error(error) from error
        call = ObservedCall(opened.hook, opened.message, serialized_object, full_reply=False)
        call.left = call.guarded = None
        try:
            return self._run(call, run)
        except CoprocessError as error:
            return self._failed(call, run, error)
        finally:
            run.left, run.guarded = call.left, call.guarded
            self._run_triggered()

    def dispatch_event(self, payload_json: str, /) -> None:
        self._dispatch_event(payload_json, is_local=False)
        self._run_triggered()

    def _failed(self, call: TykCall, run: HandlerRun, error: CoprocessError) -> bytes:
        run.error = error
        run.is_answered = True
        if call.hook.limits.on_error == "open":
            return call.unchanged()
        if self._failure_status is not None:
            return call.refused(self._failure_status, "Service unavailable", self._failure_headers)
        run.is_answered = False
        raise _rpc_error(error) from error

    def _dispatch_event(self, payload: str, *, is_local: bool) -> None:
        run = HandlerRun(is_local=is_local)
        self.runs.append(run)
        try:
            run.event = parse_event(payload)
            self._run(self._dispatcher.open_parsed_event(run.event), run)
        except CoprocessError as error:
            run.error = error
            if not is_local:
                raise _rpc_error(error) from error

    def _run(self, call: Call, run: HandlerRun) -> bytes:
        run.hook = call.hook
        limit_s = call.hook.limits.timeout_s or self._timeout_s
        started = time.perf_counter()
        reply: bytes | None = None
        try:
            # As in a service: each call has a context of its own.
            reply = Context().run(self._run_apart, call, run, limit_s)
        except HandlerFailed as error:
            if isinstance(error.__cause__, KeyboardInterrupt):
                raise error.__cause__ from None
            raise
        except TimeoutError:
            pass  # Below, as a sync handler's.
        finally:
            run.seconds = time.perf_counter() - started
        if reply is None or (run.seconds > limit_s and not debugging.was_used()):
            raise TimedOut(f'{call.hook_type} hook "{call.hook_name}" took longer than {limit_s:g} s')
        return reply

    def _run_apart(self, call: Call, run: HandlerRun, limit_s: float) -> bytes:
        with collecting_output() as run.output:
            return self._run_on_loop(call, limit_s) if call.hook.is_async else call.run()

    def _run_on_loop(self, call: Call, limit_s: float) -> bytes:
        async def run() -> bytes:
            async with asyncio.timeout(limit_s) as limit:
                debugging.limit_of_coroutine.set(limit)
                return await call.run_async()

        reply: bytes = self.loop.spawn(run()).result()
        return reply

    def _trigger(self, name: str, payload: str) -> None:
        caller = context.current_call.get()
        spec = {"APIID": caller.api_id, "OrgID": ""} if caller is not None else {}
        self._triggered.append((name, payload, spec))

    def _run_triggered(self) -> None:
        for _ in range(_MOST_TRIGGERED):
            if not self._triggered:
                return
            name, payload, spec = self._triggered.pop(0)
            self._dispatch_event(local_event_payload(name, payload, spec, datetime.now(UTC)), is_local=True)
        self._triggered.clear()
        raise CoprocessError(
            f"event handlers trigger each other without end: {_MOST_TRIGGERED} events so far"
        )


def _rpc_error(error: CoprocessError) -> RpcError:
    return RpcError(error.status.name, str(error))


class GrpcDispatcher:
    """Calls a service that runs at `target`, in gRPC's spelling. Use it in `with`. `tls` None: plaintext."""

    def __init__(self, target: str, *, timeout_s: float = 60.0, tls: ClientTls | None = None) -> None:
        self.runs: list[HandlerRun] = []
        self._target = target
        self._timeout_s = timeout_s
        self._tls = tls
        self._channel: grpc.Channel | None = None

    def __enter__(self) -> GrpcDispatcher:
        import grpc

        # The simulated gateway has limits of its own.
        limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        if self._tls is None:
            self._channel = grpc.insecure_channel(self._target, options=limits)
        else:
            options = [*limits, *self._tls.options()]
            self._channel = grpc.secure_channel(self._target, self._tls.credentials(), options)
        return self

    def __exit__(self, *_: object) -> None:
        if self._channel is not None:
            self._channel.close()

    def dispatch(self, serialized_object: bytes, /) -> bytes:
        run = HandlerRun(sent=Object.FromString(serialized_object))
        return self._call(DISPATCH, serialized_object, run)

    def dispatch_event(self, payload_json: str, /) -> None:
        run = HandlerRun()
        with contextlib.suppress(CoprocessError):
            run.event = parse_event(payload_json)
        self._call(DISPATCH_EVENT, Event(payload=payload_json).SerializeToString(), run)

    def _call(self, method: str, payload: bytes, run: HandlerRun) -> bytes:
        import grpc

        if self._channel is None:
            raise RuntimeError("the dispatcher is used outside of `with`")
        self.runs.append(run)
        call: Any = self._channel.unary_unary(method)
        started = time.perf_counter()
        try:
            reply: bytes = call(payload, timeout=self._timeout_s)
        except grpc.RpcError as error:
            run.error = RpcError(error.code().name, error.details() or "")
            raise run.error from None
        finally:
            run.seconds = time.perf_counter() - started
        return reply
