"""Plugin servers for the simulated gateway: the handlers in this process, or a service that runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from contextvars import Context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from coprocess.api import context
from coprocess.desk.output import collecting_output, silent_logger
from coprocess.desk.tyk.simulator import RpcError
from coprocess.desk.tyk.trial.tls import ClientTls, why_not_connected
from coprocess.error_text import is_interrupt
from coprocess.errors import CoprocessError
from coprocess.gateways.tyk.call import TykCall, TykEventCall
from coprocess.gateways.tyk.dispatcher import Dispatcher, local_event
from coprocess.gateways.tyk.event import TykEvent, parse_event
from coprocess.gateways.tyk.request_state import RequestStates, StatefulCall
from coprocess.gateways.tyk.wire import DISPATCH, DISPATCH_EVENT, Event, Object
from coprocess.loading.hooks import Hook, HookTable
from coprocess.loading.loaded import Loaded, Problem
from coprocess.runtime.call import Call
from coprocess.runtime.in_process import InProcess
from coprocess.runtime.service import Service
from coprocess.runtime.service_options import ServiceOptions
from coprocess.store import store

if TYPE_CHECKING:
    import grpc

    from coprocess.process.config import Settings

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
    #: Name and payload, where a handler triggered the event, and not the gateway.
    triggered: tuple[str, str] | None = None
    #: How it failed, with what the handler raised as its cause; None where it did not.
    error: CoprocessError | RpcError | None = None
    #: Failed, and passed on unchanged or answered by the service's own settings all the same.
    is_answered: bool = False
    output: list[str] = field(default_factory=list)
    seconds: float = 0.0


class _Observed(Call):
    """A call whose output is kept for its run."""

    __slots__ = ()

    record: HandlerRun

    def run(self) -> bytes:
        with collecting_output() as self.record.output:
            return super().run()

    async def run_async(self) -> bytes:
        with collecting_output() as self.record.output:
            return await super().run_async()


class _ObservedDispatch(_Observed, TykCall):
    """A Dispatch that keeps what the handler left."""

    __slots__ = ()

    def finish(self) -> bytes:
        self.record.left = _copy(self.message)
        twin = TykCall(self.hook, _copy(self.message), self.payload, full_reply=True)
        twin.passed_raw = self.was_edited_raw
        self.record.guarded = Object.FromString(twin.finish())
        return super().finish()


class ObservedCall(_ObservedDispatch):
    __slots__ = ("record",)


class _ObservedStatefulCall(_ObservedDispatch, StatefulCall):
    __slots__ = ("record",)


class _ObservedEvent(_Observed, TykEventCall):
    """A DispatchEvent."""

    __slots__ = ("record",)


def _copy(message: Object) -> Object:
    twin = Object()
    twin.CopyFrom(message)
    return twin


class InProcessDispatcher:
    """Calls the handlers of `table` by the service's own code, one at a time; each call is one of `runs`.

    Sync handlers run in the caller's thread, async ones on the service's loop. A sync handler is not cut off
    at its time limit, but its call fails all the same. Use it in `with`: until then it also takes the events
    that handlers trigger, and runs them when the call has ended.
    """

    def __init__(
        self,
        table: HookTable,
        *,
        timeout_s: float = 30.0,
        failure_status: int | None = None,
        failure_headers: Iterable[tuple[str, str]] = (),
        states: RequestStates | None = None,
    ) -> None:
        """`states`: of requests, where their hooks share it."""
        self.runs: list[HandlerRun] = []
        self._dispatcher = Dispatcher(table)
        self._states = states
        self._options = ServiceOptions(
            timeout_s=timeout_s,
            failure_status=failure_status,
            failure_headers=tuple(failure_headers),
            owns_process=False,
        )
        self._service: Service | None = None
        self._triggered: list[tuple[str, str, TykEvent, str | None]] = []

    def __enter__(self) -> InProcessDispatcher:
        # What it would log is in `runs`.
        self._service = Service(self._dispatcher, self._options, logger=silent_logger())
        self._service.failures.observer = _remember
        self._service.start()
        self._calls = InProcess(self._service)
        context.set_event_sink(self._trigger)
        return self

    def __exit__(self, *_: object) -> None:
        context.set_event_sink(None)
        if self._service is not None:
            self._service.stop(_STOP_S)

    @contextlib.contextmanager
    def opening(self, loaded: Loaded, timeout_s: float = 30.0) -> Iterator[list[Problem]]:
        """The resources of `loaded` are open within. Gives what did not open; its handlers are gone."""
        if self._service is None:
            raise RuntimeError("the dispatcher is used outside of `with`")
        known = len(loaded.problems)
        loaded.open(self._service.async_calls.spawn, timeout_s)
        self._dispatcher.table = loaded.table
        try:
            yield loaded.problems[known:]
        finally:
            loaded.close(timeout_s)

    def dispatch(self, serialized_object: bytes, /) -> bytes:
        """Raises RpcError, as a gateway sees it; what it stands for is its run's `error`."""
        run = HandlerRun(sent=Object.FromString(serialized_object))
        self.runs.append(run)
        try:
            opened = self._dispatcher.open_dispatch(serialized_object)
        except CoprocessError as error:
            run.error = error
            raise _rpc_error(error) from error
        arguments = (opened.hook, opened.message, serialized_object)
        call: ObservedCall | _ObservedStatefulCall
        if self._states is None:
            call = ObservedCall(*arguments, full_reply=False)
        else:
            call = _ObservedStatefulCall(*arguments, full_reply=False, states=self._states)
        try:
            return self._run(call, run)
        finally:
            self._run_triggered()

    def dispatch_event(self, payload_json: str, /) -> None:
        """As `dispatch`."""
        run = HandlerRun()
        self.runs.append(run)
        try:
            run.event = parse_event(payload_json)
            self._run(self._event_call(run.event), run)
        except CoprocessError as error:
            run.error = run.error or error
            raise _rpc_error(error) from error
        self._run_triggered()

    def _event_call(self, event: TykEvent, version: str | None = None) -> _ObservedEvent:
        return _ObservedEvent(self._dispatcher.open_parsed_event(event, version).hook, event)

    def _run(self, call: ObservedCall | _ObservedStatefulCall | _ObservedEvent, run: HandlerRun) -> bytes:
        run.hook = call.hook
        call.record = run
        started = time.perf_counter()
        # What the caller's context holds is not there in a service, either.
        Context().run(self._calls.call, call)
        run.seconds = time.perf_counter() - started
        if run.error is not None and (cause := run.error.__cause__) is not None and is_interrupt(cause):
            raise cause from None
        if call.failure is None:
            run.is_answered = run.error is not None
            return call.replied
        status, text = call.failure
        run.error = run.error or RpcError(status.name, text)
        raise RpcError(status.name, text) from run.error

    def _trigger(self, name: str, payload: str) -> None:
        caller = context.current_call.get()
        version = None if caller is None else caller.version
        # Now: the reply is made of the same message.
        self._triggered.append((name, payload, local_event(name, payload, caller), version))

    def _run_triggered(self) -> None:
        for _ in range(_MOST_TRIGGERED):
            if not self._triggered:
                return
            name, payload, event, version = self._triggered.pop(0)
            run = HandlerRun(event=event, triggered=(name, payload))
            self.runs.append(run)
            try:
                self._run(self._event_call(event, version), run)
            except CoprocessError as error:
                run.error = run.error or error
        self._triggered.clear()
        raise CoprocessError(
            f"event handlers trigger each other without end: {_MOST_TRIGGERED} events so far"
        )


def dispatcher_of(table: HookTable, settings: Settings) -> InProcessDispatcher:
    """One that answers as a service with those settings does."""
    retry_after = settings.failure_retry_after_s
    return InProcessDispatcher(
        table,
        timeout_s=settings.timeout_s,
        failure_status=settings.failure_status,
        failure_headers=() if retry_after is None else [("Retry-After", str(retry_after))],
        states=RequestStates(store, settings.read_request_state_secret(), settings.request_state_s)
        if settings.request_state
        else None,
    )


def _remember(call: Call, error: CoprocessError) -> None:
    if isinstance(call, _Observed):
        call.record.error = error


_STOP_S = 5.0


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
            said = error.details() or ""
            if error.code() is grpc.StatusCode.UNAVAILABLE and (
                why := why_not_connected(self._target, self._tls, said)
            ):
                said = f"{said}; {why}"
            run.error = RpcError(error.code().name, said)
            raise run.error from None
        finally:
            run.seconds = time.perf_counter() - started
        return reply
