"""Calls that compute take turns: in order, and such that one that hangs, or waits, holds up no other."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from coprocess import Pre, switching
from coprocess.api.moments import HookType
from coprocess.errors import Status
from coprocess.loading.hooks import HookTable
from coprocess.runtime import pace as pace_module
from coprocess.runtime import service as service_module
from coprocess.runtime.computing import ComputingLine
from coprocess.runtime.pace import COMPUTES_S, Pace
from coprocess.switching import SWITCH_S, ShortSwitches
from coprocess.transport.engine import Metadata, Rpc
from coprocess.transport.engines import is_compiled
from tests.objects import hook_table, make_object, table_of
from tests.server import PATIENCE_S, fails, serving, until
from tests.service.hooks import counts, stamped, state_of


def test_threads_switch_sooner_while_a_call_computes() -> None:
    """Once, they did only where others waited for their turn: a quick call waited for 5 ms at each step."""
    usual_s = sys.getswitchinterval()
    line: ComputingLine[str] = ComputingLine(lambda call: None, ShortSwitches(owns_process=True))
    assert line.enter("first")
    assert sys.getswitchinterval() == SWITCH_S
    assert not line.enter("second")
    assert line.next_after("first") == "second"
    assert sys.getswitchinterval() == SWITCH_S
    assert line.next_after("first") is None
    assert sys.getswitchinterval() == SWITCH_S
    assert line.next_after("second") is None
    assert sys.getswitchinterval() == usual_s


def test_in_an_app_of_others_nothing_is_changed_for_calls_that_compute() -> None:
    usual_s = sys.getswitchinterval()
    line: ComputingLine[str] = ComputingLine(lambda call: None, ShortSwitches(owns_process=False))
    assert line.enter("first")
    assert sys.getswitchinterval() == usual_s
    assert line.next_after("first") is None
    assert sys.getswitchinterval() == usual_s


def test_what_a_handler_does_to_the_interval_is_put_back_also_while_it_is_short() -> None:
    usual_s, switches = sys.getswitchinterval(), ShortSwitches(owns_process=True)
    for before_s, now_s in ((usual_s, SWITCH_S), (usual_s, 1.0)):
        switches.ask()
        assert switching.usual_s() == before_s
        sys.setswitchinterval(now_s)
        assert switching.usual_s() == (before_s if now_s == SWITCH_S else now_s)
        switching.set_usual_s(before_s)
        assert sys.getswitchinterval() == SWITCH_S
        switches.ask_no_more()
        assert sys.getswitchinterval() == before_s == switching.usual_s()
    switching.set_usual_s(0.5)
    assert sys.getswitchinterval() == switching.usual_s() == 0.5
    switching.set_usual_s(usual_s)


def test_calls_have_their_turn_in_the_order_in_which_they_came() -> None:
    line: ComputingLine[str] = ComputingLine(lambda call: None, ShortSwitches(owns_process=False))
    assert line.enter("first")
    assert not any(line.enter(call) for call in ("second", "gives up", "third"))
    assert line.drop("gives up")
    assert not line.drop("gives up")
    assert not line.drop("first"), "it does not wait"
    assert line.next_after("first") == "second"
    assert line.next_after("first") is None, "it has no turn any more"
    assert line.next_after("second") == "third"
    assert line.next_after("third") is None
    assert line.enter("fourth"), "nobody has the turn"


def _computes(is_over: threading.Event) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not is_over.is_set() and time.monotonic() < until_s:
        pass


@pytest.mark.parametrize("hold", [threading.Event.wait, _computes], ids=["waits", "computes"])
def test_the_turn_of_one_that_waits_or_computes_for_long_is_passed_on(
    hold: Callable[[threading.Event], Any], release: threading.Event
) -> None:
    started: list[str] = []
    line: ComputingLine[str] = ComputingLine(started.append, ShortSwitches(owns_process=False))
    line.start()
    try:
        assert line.enter("holder")
        threading.Thread(target=hold, args=(release,), daemon=True).start()
        assert not any(line.enter(call) for call in ("second", "third"))
        until(lambda: started == ["second", "third"])
        assert len(line) == 0
        assert line.next_after("holder") is None, "it had lost its turn"
    finally:
        line.stop()


class _Rpc(Rpc):
    """Answers in `respond`."""

    __slots__ = ("respond_with",)

    def __init__(self, payload: bytes, respond: Callable[[bytes], None]) -> None:
        self.method, self.payload, self.respond_with = "/coprocess.Dispatcher/Dispatch", payload, respond

    def respond(self, reply: bytes) -> None:
        self.respond_with(reply)

    def fail(self, status: Status, message: str) -> None:
        raise AssertionError(message)

    def on_cancel(self, callback: Callable[[], None]) -> None: ...

    def metadata(self) -> Metadata:
        return ()

    def time_allowed_s(self) -> float | None:
        return None


@pytest.mark.skipif(is_compiled(), reason="a compiled class takes no method from outside")
def test_a_hook_is_not_slow_because_its_answers_wait_for_the_interpreter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beside calls that compute, each write is followed by a wait: quick hooks were taken for slow ones."""
    took_s: list[float] = []
    answered_s: list[float] = []
    monkeypatch.setattr(service_module, "QUICK_S", -1.0)
    monkeypatch.setattr(Pace, "took", lambda pace, duration_s, before: took_s.append(duration_s))

    def respond(reply: bytes) -> None:
        answered_s.append(time.monotonic())
        time.sleep(0.01)

    with serving(hook_table(HookType.Pre, lambda: None)) as server:
        for _ in range(2):  # The first runs apart, as its hook is unknown.
            began_s = time.monotonic()
            server.service.handle(_Rpc(make_object().SerializeToString(), respond))
        assert len(took_s) == 1
        assert took_s[0] <= answered_s[1] - began_s


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """What hooks compute is not measured: the test says it."""
    if is_compiled():
        pytest.skip("compiled code takes no function from outside")
    monkeypatch.setattr(service_module, "computed", lambda: None)


def computing_table(release: threading.Event, **limits: Any) -> HookTable:
    """`long` waits for `release`, `short` does not; both are taken to compute."""

    def declare() -> None:
        @Pre(name="long", **limits)
        def long(request: Any) -> None:
            release.wait(PATIENCE_S)
            request.headers["X-Stamp"] = "long"

        @Pre(name="short", **limits)
        def short(request: Any) -> None:
            request.headers["X-Stamp"] = "short"

    return table_of(declare)


@pytest.mark.usefixtures("known")
def test_a_call_that_hangs_in_its_turn_holds_up_no_other(release: threading.Event) -> None:
    with serving(computing_table(release)) as server:
        assert stamped(server, "short") == "short"
        state_of(server, "short").pace.computes = True
        until(lambda: server.service.in_flight == 0)  # Else the short one may be what is counted below.
        long = server.client.future(make_object(hook_name="long"))
        until(lambda: server.service.in_flight == 1)
        state_of(server, "long").pace.computes = True
        more = [server.client.future(make_object(hook_name="long")) for _ in range(3)]
        for _ in range(3):
            assert stamped(server, "short") == "short"
        assert not any(call.done() for call in (long, *more))
        release.set()
        for call in (long, *more):
            assert call.result(timeout=PATIENCE_S)
        until(lambda: server.service.in_flight == 0)


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("concurrency", [1, 64])
def test_all_calls_that_wait_for_their_turn_are_answered(release: threading.Event, concurrency: int) -> None:
    """Also where they wait for a place in their hook before."""
    release.set()
    with serving(computing_table(release, concurrency=concurrency)) as server:
        for name in ("long", "short"):
            assert stamped(server, name) == name
            state_of(server, name).pace.computes = True
        calls = [
            (name, server.client.future(make_object(hook_name=name)))
            for _ in range(50)
            for name in ("long", "short")
        ]
        for name, call in calls:
            reply = make_object()
            reply.ParseFromString(call.result(timeout=PATIENCE_S))
            assert reply.request.set_headers["X-Stamp"] == name
        until(lambda: server.service.in_flight == 0)


@pytest.mark.usefixtures("known")
def test_a_call_whose_client_gave_up_loses_its_turn(
    release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The turn stays with whoever has it.
    monkeypatch.setattr(ComputingLine, "start", lambda line: None)
    with serving(computing_table(release)) as server:
        release.set()
        stamped(server, "long")
        release.clear()
        state_of(server, "long").pace.computes = True
        running = server.client.future(make_object(hook_name="long"))
        until(lambda: server.service.in_flight == 1)
        code, _ = fails(lambda: server.client.dispatch(make_object(hook_name="long"), timeout_s=0.2))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: server.service.in_flight == 1)
        release.set()
        running.result(PATIENCE_S)
        until(lambda: server.service.in_flight == 0)
        assert counts(server, "long")["ran"] == 2


@pytest.mark.skipif(is_compiled(), reason="compiled code takes no function from outside")
def test_a_hook_that_computes_is_known_and_one_that_needs_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace()
    now = [0.0, 0.0]
    monkeypatch.setattr(pace_module, "computed", lambda: (now[0], now[1]))

    def ran(own_s: float, all_s: float) -> bool:
        before = (now[0], now[1])
        now[0], now[1] = now[0] + own_s, now[1] + all_s
        pace.computed(before, 10 * COMPUTES_S)
        return pace.computes

    assert not ran(0.0, 0.0)
    assert ran(10 * COMPUTES_S, 10 * COMPUTES_S)
    assert ran(10 * COMPUTES_S, 11 * COMPUTES_S), "others' little does not change it"
    assert not ran(10 * COMPUTES_S, 20 * COMPUTES_S), "another computed at the same time"
    assert not ran(10 * COMPUTES_S, 10 * COMPUTES_S), "for some time, it is not tried again"
    pace = Pace()
    assert ran(10 * COMPUTES_S, 10 * COMPUTES_S)
    assert not [ran(0.0, 0.0) for _ in range(20)][-1]
