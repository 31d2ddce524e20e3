"""The simulated gateway with everything that a request causes written down beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from coprocess.api.functions import Source
from coprocess.desk.as_upstream import ObservedUpstream
from coprocess.desk.tracebacks import own_traceback
from coprocess.desk.trees import ABSENT
from coprocess.desk.tyk.read_back import is_read
from coprocess.desk.tyk.simulator import ApiDefinition, Exchange, Gateway, HookCall, RpcError, Upstream
from coprocess.desk.tyk.simulator.events import as_json
from coprocess.desk.tyk.trial.changes import Edit, by_field, completed, edits
from coprocess.desk.tyk.trial.dispatchers import GrpcDispatcher, HandlerRun, InProcessDispatcher
from coprocess.desk.tyk.trial.findings import Finding, find
from coprocess.desk.tyk.trial.mended_findings import is_new_request
from coprocess.errors import HandlerFailed
from coprocess.gateways.tyk.event import TykEvent, parse_event


class _Ran:
    """What is known of the run of a handler, if there was one."""

    __slots__ = ()
    run: HandlerRun | None

    @property
    def source(self) -> Source | None:
        """Where the handler is written; None where it runs elsewhere, or there is none."""
        return self.run.hook.source if self.run and self.run.hook else None

    @property
    def raised(self) -> BaseException | None:
        """What the handler raised; None where it did not, or runs elsewhere."""
        cause = self.run.error.__cause__ if self.run is not None and self.run.error is not None else None
        # A HandlerFailed as cause says what the error says, and no more.
        return None if cause is None or isinstance(cause, HandlerFailed) else cause

    @property
    def traceback(self) -> list[str]:
        """Of what the handler raised, with its own frames only."""
        return own_traceback(self.raised) if self.raised is not None else []

    @property
    def output(self) -> list[str]:
        return "".join(self.run.output).splitlines() if self.run else []


@dataclass(slots=True)
class HookTrial(_Ran):
    """One hook of a trial."""

    call: HookCall
    #: None where the gateway's limits kept the call from being made.
    run: HandlerRun | None
    #: What the gateway reads.
    edits: list[Edit] = field(default_factory=list)
    #: What the handler edited, and the gateway does not look at.
    ignored_edits: list[Edit] = field(default_factory=list)

    @property
    def type(self) -> str:
        return self.call.hook_type

    @property
    def name(self) -> str:
        return self.call.hook_name

    @property
    def seconds(self) -> float:
        return self.call.seconds

    @property
    def style(self) -> str:
        """`native` or `embedded`; empty where that is not known."""
        return self.run.hook.style if self.run and self.run.hook else ""

    @property
    def status(self) -> str:
        """The gRPC status of the call, by name."""
        return self.call.error.code_name if self.call.error else "OK"

    @property
    def failed(self) -> bool:
        """Whether the handler failed, also where the gateway did not see it (`on_error="open"`)."""
        return self.call.error is not None or (self.run is not None and self.run.error is not None)

    @property
    def error(self) -> str | None:
        """How it failed, in words."""
        if self.run is not None and self.run.error is not None:
            failure = self.run.error
            return failure.message if isinstance(failure, RpcError) else str(failure)
        return (self.call.error.message or self.call.error.code_name) if self.call.error else None

    @property
    def changes(self) -> dict[str, Any]:
        """What the gateway takes over: `{"request.set_headers": {"X": "1"}}`; None is what went away."""
        return by_field(self.edits)

    @property
    def ignored(self) -> dict[str, Any]:
        """What the handler edited in vain, in the form of `changes`."""
        return by_field(self.ignored_edits)


@dataclass(slots=True)
class EventTrial(_Ran):
    """One event that was sent to one handler."""

    event: TykEvent
    run: HandlerRun

    @property
    def type(self) -> str:
        return self.event.type

    @property
    def meta(self) -> dict[str, Any]:
        return self.event.meta

    @property
    def handler(self) -> str:
        """The name of the function that it was for."""
        return self.event.handler

    @property
    def is_local(self) -> bool:
        """Whether a handler triggered it, and not the gateway."""
        return self.run.triggered is not None

    @property
    def ran(self) -> bool:
        """Whether the handler ran to its end."""
        return self.run.error is None

    @property
    def error(self) -> str | None:
        failure = self.run.error
        return None if failure is None else getattr(failure, "message", None) or str(failure)

    @property
    def seconds(self) -> float:
        return self.run.seconds


@dataclass(slots=True)
class Trial:
    """One request, and all that came of it."""

    method: str
    target: str
    definition: ApiDefinition
    exchange: Exchange
    hooks: list[HookTrial]
    events: list[EventTrial]
    seconds: float
    #: Why the upstream could not be asked; empty where it could, or was not.
    upstream_error: str
    findings: list[Finding] = field(default_factory=list)

    @property
    def status(self) -> int | None:
        """What the client gets; None where the connection was dropped."""
        return self.exchange.http_response.status if self.exchange.http_response else None

    @property
    def ok(self) -> bool:
        """Whether no hook failed, and the client got an answer below 500."""
        return self.status is not None and self.status < 500 and not any(hook.failed for hook in self.hooks)


class ObservedGateway:
    """A simulated gateway for one API, which keeps sessions, rates and quotas from request to request."""

    def __init__(
        self,
        definition: ApiDefinition,
        dispatcher: InProcessDispatcher | GrpcDispatcher,
        upstream: Upstream,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._upstream = ObservedUpstream(upstream)
        self._dispatcher = dispatcher
        self._gateway = Gateway(definition, dispatcher, self._upstream, clock=clock)

    @property
    def definition(self) -> ApiDefinition:
        return self._gateway.definition

    @property
    def upstream(self) -> Upstream:
        return self._upstream.upstream

    @upstream.setter
    def upstream(self, upstream: Upstream) -> None:
        self._upstream.upstream = upstream

    def request(
        self, method: str, target: str, headers: Iterable[tuple[str, str]] = (), body: bytes = b""
    ) -> Trial:
        """Send one request through. Raises ValueError where `target` is no request target."""
        runs = self._dispatcher.runs
        runs.clear()
        self._upstream.error = ""
        started = time.perf_counter()
        exchange = self._gateway.request(method, target, headers, body)
        seconds = time.perf_counter() - started
        waiting = [run for run in runs if run.sent is not None]
        events = [run for run in runs if run.sent is None]
        trial = Trial(
            method=method,
            target=target,
            definition=self.definition,
            exchange=exchange,
            hooks=[_hook_trial(call, waiting) for call in exchange.hooks],
            events=_event_trials(exchange, events),
            seconds=seconds,
            upstream_error=self._upstream.error,
        )
        trial.findings = find(trial)
        return trial


def _hook_trial(call: HookCall, waiting: list[HandlerRun]) -> HookTrial:
    # A call above the gateway's limits had no run: the next run is another call's.
    run = waiting.pop(0) if waiting and waiting[0].sent == call.object else None
    trial = HookTrial(call, run)
    if call.reply is not None:
        found = edits(call.object, completed(call.object, call.reply))
        trial.edits = [edit for edit in found if is_read(edit.path, call.object.hook_type)]
        trial.ignored_edits = [edit for edit in found if not is_read(edit.path, call.object.hook_type)]
    if run is not None and run.left is not None:
        # In the reply the guard may have mended the one, and left out the other.
        trial.ignored_edits = [
            edit
            for edit in edits(call.object, run.left)
            if not is_read(edit.path, call.object.hook_type)
            and not _was_mended(edit, run.left, run.guarded)
            and not _is_of_new_object(edit, run.left)
        ]
    return trial


def _was_mended(edit: Edit, left: Any, guarded: Any) -> bool:
    # The guard makes raw_body of a body that alone was edited.
    if edit.path[-1] != "body" or guarded is None:
        return False
    part = edit.path[0]
    return bool(getattr(left, part).raw_body != getattr(guarded, part).raw_body)


def _is_of_new_object(edit: Edit, left: Any) -> bool:
    # A new request says nothing of what it does not name.
    return edit.path[0] == "request" and edit.after is ABSENT and is_new_request(left)


def _event_trials(exchange: Exchange, runs: list[HandlerRun]) -> list[EventTrial]:
    payloads = iter(exchange.events)
    trials = []
    for run in runs:
        payload = None if run.triggered is not None else next(payloads, None)
        event = run.event or (parse_event(as_json(payload)) if payload is not None else None)
        if event is not None:
            trials.append(EventTrial(event, run))
    return trials
