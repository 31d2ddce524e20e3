"""The service: limits, time-outs, failures and reloads, with both engines over a real connection."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
import structlog

from coprocess import CustomKeyCheck, Event, Post, Pre, Response, trigger_event
from coprocess.hooks import HookTable, HookType
from coprocess.server.engines import EngineChoice
from coprocess.server.failures import safe_text
from coprocess.server.hook_state import HookState
from coprocess.server.service import Service, ServiceOptions
from coprocess.tyk.dispatcher import Dispatcher
from coprocess.tyk.wire import Object
from tests.objects import hook_table, make_object, table_of
from tests.server import ENGINES, PATIENCE_S, Server, error_of, serving
from tests.test_engines import fails
from tests.test_workers import until


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> EngineChoice:
    choice: EngineChoice = request.param
    return choice


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What handlers of a test wait for; set at its end, too."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture(autouse=True)
def plain_logs() -> Iterator[None]:
    """As the service logs: structlog's own tracebacks take seconds where a handler recurses."""
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, renderer])
    yield
    structlog.reset_defaults()


def state_of(server: Server, name: str) -> HookState:
    (state,) = [state for state in server.service.states if state.hook.name == name]
    return state


def stamped(server: Server, name: str) -> str:
    return server.client.dispatch(make_object(hook_name=name)).request.set_headers["X-Stamp"]


def counts(server: Server, name: str) -> dict[str, int]:
    (found,) = [counts for _, counts in state_of(server, name).counted]
    return {
        "ran": sum(found.durations),
        "failed": found.failed,
        "timed_out": found.timed_out,
        "shed": found.shed,
    }


def blocking_table(release: threading.Event, **limits: Any) -> HookTable:
    """`slow` and `slow_async` wait for `release`; `fast` does not."""

    def declare() -> None:
        @Pre(name="slow", **limits)
        def slow(request: Any) -> None:
            release.wait(PATIENCE_S)
            request.headers["X-Stamp"] = "slow"

        @Pre(name="slow_async", **limits)
        async def slow_async(request: Any) -> None:
            while not release.is_set():  # noqa: ASYNC110 - another thread sets it
                await asyncio.sleep(0.002)
            request.headers["X-Stamp"] = "slow"

        @Pre(name="fast")
        def fast(request: Any) -> None:
            request.headers["X-Stamp"] = "fast"

    return table_of(declare)


# Concurrency and queue.


@pytest.mark.parametrize("name", ["slow", "slow_async"])
def test_a_queued_call_whose_client_gave_up_leaves_the_queue(
    engine: EngineChoice, release: threading.Event, name: str
) -> None:
    with serving(blocking_table(release, concurrency=1), engine=engine) as server:
        running = server.client.future(make_object(hook_name=name))
        until(lambda: server.service.in_flight == 1)
        code, _ = fails(lambda: server.client.dispatch(make_object(hook_name=name), timeout_s=0.2))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: not state_of(server, name).queue)
        release.set()
        running.result(PATIENCE_S)
        until(lambda: server.service.in_flight == 0)
        assert counts(server, name)["ran"] == 1


@pytest.mark.parametrize("name", ["slow", "slow_async"])
def test_beyond_concurrency_and_queue_calls_are_refused_at_once(
    engine: EngineChoice, release: threading.Event, name: str
) -> None:
    table = blocking_table(release, concurrency=2)
    with serving(table, engine=engine, options=ServiceOptions(queue_size=3)) as server:
        calls = [server.client.future(make_object(hook_name=name)) for _ in range(5)]
        until(lambda: server.service.in_flight == 5)
        state = state_of(server, name)
        assert (state.running, len(state.queue)) == (2, 3)
        for _ in range(4):
            code, text = fails(lambda: server.client.dispatch(make_object(hook_name=name)))
            assert (code, text) == (grpc.StatusCode.RESOURCE_EXHAUSTED, f'Pre hook "{name}" is overloaded')
        assert stamped(server, "fast") == "fast"
        release.set()
        for call in calls:
            reply = Object.FromString(call.result(timeout=PATIENCE_S))
            assert reply.request.set_headers["X-Stamp"] == "slow"
        until(lambda: server.service.in_flight == 0)
        assert counts(server, name) == {"ran": 5, "failed": 0, "timed_out": 0, "shed": 4}
        assert server.service.refused_calls == 4
        assert stamped(server, name) == "slow"


def test_no_more_run_at_one_time_than_may(engine: EngineChoice) -> None:
    running, most = 0, 0
    lock = threading.Lock()

    def handler() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.001)
        with lock:
            running -= 1

    table = hook_table(HookType.Pre, handler, concurrency=3)
    with serving(table, engine=engine, options=ServiceOptions(queue_size=1000)) as server:
        calls = [server.client.future(make_object()) for _ in range(100)]
        for call in calls:
            call.result(timeout=PATIENCE_S)
    assert most <= 3


def test_a_slow_hook_does_not_starve_a_fast_one(engine: EngineChoice, release: threading.Event) -> None:
    table = blocking_table(release, concurrency=16)
    with serving(table, engine=engine, options=ServiceOptions(queue_size=1000)) as server:
        slow = [
            server.client.future(make_object(hook_name=name))
            for name in ("slow", "slow_async")
            for _ in range(100)
        ]
        until(lambda: server.service.in_flight == 200)
        for _ in range(100):
            assert stamped(server, "fast") == "fast"
        release.set()
        for call in slow:
            call.result(timeout=PATIENCE_S)


def test_counts_of_durations(engine: EngineChoice) -> None:
    with serving(hook_table(HookType.Pre, lambda: None), engine=engine) as server:
        for _ in range(20):
            server.client.dispatch(make_object())
        until(lambda: server.service.in_flight == 0)
        assert counts(server, "hook")["ran"] == 20
        ((_, counted),) = state_of(server, "hook").counted
        assert counted.duration_sum_s > 0


# Time-outs.

QUICKLY = ServiceOptions(timeout_s=0.1, queue_size=8)


def test_a_sync_handler_that_overruns_is_answered_and_its_hook_serves_on(
    engine: EngineChoice, release: threading.Event
) -> None:
    with serving(blocking_table(release), engine=engine, options=QUICKLY, max_threads=4) as server:
        for _ in range(3):
            code, text = fails(lambda: server.client.dispatch(make_object(hook_name="slow")))
            assert (code, text) == (
                grpc.StatusCode.DEADLINE_EXCEEDED,
                'Pre hook "slow" took longer than 0.1 s',
            )
        assert state_of(server, "slow").running == 0
        assert stamped(server, "fast") == "fast"
        assert counts(server, "slow") == {"ran": 3, "failed": 0, "timed_out": 3, "shed": 0}
        release.set()
        assert stamped(server, "slow") == "slow"
        until(lambda: server.service.in_flight == 0)
        assert counts(server, "slow")["ran"] == 4


def test_what_waits_behind_a_handler_that_overruns_is_run(
    engine: EngineChoice, release: threading.Event
) -> None:
    began = threading.Semaphore(0)

    def handler(request: Any) -> None:
        began.release()
        if "X-Hang" in request.headers:
            release.wait(PATIENCE_S)

    hanging = make_object()
    hanging.request.headers["X-Hang"] = "1"
    table = hook_table(HookType.Pre, handler, concurrency=1)
    with serving(table, engine=engine, options=QUICKLY) as server:
        # The second hangs in a thread of the service's own, and is replaced there.
        calls = [server.client.future(message) for message in (hanging, hanging, make_object())]
        assert error_of(calls[0])[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        assert error_of(calls[1])[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        assert calls[2].result(timeout=PATIENCE_S)
        until(lambda: server.service.in_flight == 0)
        assert counts(server, "hook") == {"ran": 3, "failed": 0, "timed_out": 2, "shed": 0}


def test_where_no_more_threads_may_hang_calls_are_answered_all_the_same(
    engine: EngineChoice, release: threading.Event
) -> None:
    with serving(
        blocking_table(release), engine=engine, options=QUICKLY, min_threads=1, max_threads=2
    ) as server:
        # Two may hang beside the two that serve; two more take these, too.
        calls = [server.client.future(make_object(hook_name="slow")) for _ in range(4)]
        assert {error_of(call)[0] for call in calls} == {grpc.StatusCode.DEADLINE_EXCEEDED}
        assert counts(server, "slow")["timed_out"] == 4
        release.set()
        until(lambda: server.service.in_flight == 0)
        assert stamped(server, "slow") == "slow"
        until(lambda: server.service.in_flight == 0)
        assert counts(server, "slow") == {"ran": 5, "failed": 0, "timed_out": 4, "shed": 0}


def test_an_async_handler_that_overruns_is_cancelled(engine: EngineChoice) -> None:
    cancelled = threading.Event()

    async def handler() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with serving(hook_table(HookType.Pre, handler), engine=engine, options=QUICKLY) as server:
        code, text = fails(lambda: server.client.dispatch(make_object()))
        assert (code, text) == (grpc.StatusCode.DEADLINE_EXCEEDED, 'Pre hook "hook" took longer than 0.1 s')
        assert cancelled.wait(PATIENCE_S)
        assert server.service.in_flight == 0
        assert counts(server, "hook") == {"ran": 1, "failed": 0, "timed_out": 1, "shed": 0}


def test_an_async_handler_that_will_not_be_cancelled_is_answered(
    engine: EngineChoice, release: threading.Event
) -> None:
    async def handler(request: Any) -> None:
        while "X-Hang" in request.headers and not release.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    hanging = make_object()
    hanging.request.headers["X-Hang"] = "1"
    table = hook_table(HookType.Pre, handler, concurrency=1)
    with serving(table, engine=engine, options=QUICKLY) as server:
        calls = [server.client.future(message) for message in (hanging, make_object())]
        assert error_of(calls[0])[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        assert calls[1].result(timeout=PATIENCE_S)
        until(lambda: server.service.in_flight == 0)
        release.set()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_timeout_error_of_its_own_is_a_failure(engine: EngineChoice, *, asynchronous: bool) -> None:
    def sync() -> None:
        raise TimeoutError("upstream")

    async def on_the_loop() -> None:
        async with asyncio.timeout(0):
            await asyncio.sleep(1)

    with serving(hook_table(HookType.Pre, on_the_loop if asynchronous else sync), engine=engine) as server:
        code, text = fails(lambda: server.client.dispatch(make_object()))
        assert (code, text) == (grpc.StatusCode.INTERNAL, 'Pre hook "hook" raised TimeoutError')
        until(lambda: server.service.in_flight == 0)
        assert counts(server, "hook") == {"ran": 1, "failed": 1, "timed_out": 0, "shed": 0}


def test_a_hooks_own_timeout(engine: EngineChoice, release: threading.Event) -> None:
    with serving(blocking_table(release, timeout=0.1), engine=engine) as server:
        for name in ("slow", "slow_async"):
            code, _ = fails(lambda name=name: server.client.dispatch(make_object(hook_name=name)))  # type: ignore[misc]  # a default is no parameter
            assert code is grpc.StatusCode.DEADLINE_EXCEEDED


# What a failure does.


@pytest.mark.parametrize(("on_error", "status"), [("closed", 503), ("open", -1)])
def test_what_a_full_hook_sheds_is_answered_as_its_failures_are(
    engine: EngineChoice, release: threading.Event, on_error: str, status: int
) -> None:
    table = blocking_table(release, concurrency=1, on_error=on_error)
    options = ServiceOptions(queue_size=0, failure_status=503, failure_headers=(("Retry-After", "7"),))
    with serving(table, engine=engine, options=options) as server:
        running = server.client.future(make_object(hook_name="slow"))
        until(lambda: server.service.in_flight == 1)
        overrides = server.client.dispatch(make_object(hook_name="slow")).request.return_overrides
        assert overrides.response_code == status
        assert dict(overrides.headers).get("Retry-After") == ("7" if status == 503 else None)
        assert counts(server, "slow")["shed"] == server.service.refused_calls == 1
        release.set()
        running.result(PATIENCE_S)


@pytest.mark.parametrize("cause", ["exception", "time-out"])
@pytest.mark.parametrize("hook_type", [HookType.Pre, HookType.Post, HookType.Response])
def test_on_error_open_passes_what_came(
    engine: EngineChoice, release: threading.Event, hook_type: HookType, cause: str
) -> None:
    def handler(request: Any) -> None:
        request.headers["X-A"] = "1"
        request.body = b"new"
        if cause == "exception":
            raise ValueError
        release.wait(PATIENCE_S)

    table = hook_table(hook_type, handler, on_error="open", timeout=0.1)
    # It goes before a status for failures.
    options = ServiceOptions(failure_status=503)
    with serving(table, engine=engine, full_reply=True, options=options) as server:
        message = make_object(hook_type)
        assert server.client.dispatch(message) == message


def test_on_error_open_never_admits_a_caller() -> None:
    from coprocess.errors import HandlerError

    with pytest.raises(HandlerError, match="let everybody in"):
        CustomKeyCheck(name="check", on_error="open")(lambda session: None)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_failure_status(engine: EngineChoice, *, asynchronous: bool) -> None:
    def sync() -> None:
        raise ValueError("secret")

    async def on_the_loop() -> None:
        await asyncio.sleep(3600)

    options = ServiceOptions(failure_status=503, failure_headers=(("Retry-After", "5"),), timeout_s=0.1)
    table = hook_table(HookType.CustomKeyCheck, on_the_loop if asynchronous else sync)
    with serving(table, engine=engine, options=options) as server:
        overrides = server.client.dispatch(make_object(HookType.CustomKeyCheck)).request.return_overrides
        assert (overrides.response_code, overrides.headers["Retry-After"]) == (503, "5")
        assert "Service unavailable" in overrides.response_body
        assert "secret" not in overrides.response_body


def test_failure_status_of_a_response_hook(engine: EngineChoice) -> None:
    def handler() -> None:
        raise ValueError

    options = ServiceOptions(failure_status=503)
    with serving(hook_table(HookType.Response, handler), engine=engine, options=options) as server:
        reply = server.client.dispatch(make_object(HookType.Response))
        assert reply.response.status_code == 503


def test_a_failure_that_cannot_be_covered_is_told(engine: EngineChoice) -> None:
    """What came can be no reply: the gateway's response has no status."""

    def handler() -> None:
        raise ValueError

    table = hook_table(HookType.Response, handler, on_error="open")
    with serving(table, engine=engine) as server:
        message = make_object(HookType.Response)
        message.response.status_code = 0
        code, text = fails(lambda: server.client.dispatch(message))
        assert (code, text) == (grpc.StatusCode.INTERNAL, 'Response hook "hook" raised ValueError')
        until(lambda: server.service.in_flight == 0)


def raises(error: BaseException) -> Callable[[], None]:
    def handler() -> None:
        raise error

    return handler


def recurses() -> None:
    recurses()


def raises_async(error: BaseException) -> Callable[[], Any]:
    async def handler() -> None:
        await asyncio.sleep(0)
        raise error

    return handler


async def leaves_a_task_that_exits() -> None:
    async def exits() -> None:
        raise SystemExit(1)

    # The exception is the loop's, and the task's.
    task = asyncio.create_task(exits())
    await asyncio.wait([task])
    assert isinstance(task.exception(), SystemExit)
    raise ValueError


async def awaits_what_was_cancelled() -> None:
    task = asyncio.create_task(asyncio.sleep(3600))
    task.cancel()
    await task


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


WILD: dict[str, tuple[Callable[[], Any], str]] = {
    "exits": (raises(SystemExit(3)), "raised SystemExit"),
    "is interrupted": (raises(KeyboardInterrupt()), "raised KeyboardInterrupt"),
    "raises GeneratorExit": (raises(GeneratorExit()), "raised GeneratorExit"),
    "raises CancelledError": (raises(asyncio.CancelledError()), "raised CancelledError"),
    "recurses": (recurses, "raised RecursionError"),
    "raises what has no text": (raises(Unspeakable()), "raised Unspeakable"),
    "returns nonsense": (lambda: object(), "returned object"),
    "returns an exception": (lambda: ValueError(), "returned ValueError"),
    "async: exits": (raises_async(SystemExit(3)), "raised SystemExit"),
    "async: is interrupted": (raises_async(KeyboardInterrupt()), "raised KeyboardInterrupt"),
    "async: raises GeneratorExit": (raises_async(GeneratorExit()), "raised GeneratorExit"),
    "async: raises CancelledError": (raises_async(asyncio.CancelledError()), "raised CancelledError"),
    "async: raises StopIteration": (raises_async(StopIteration()), "raised RuntimeError"),
    "async: leaves a task that exits": (leaves_a_task_that_exits, "raised ValueError"),
    "async: awaits what was cancelled": (awaits_what_was_cancelled, "raised CancelledError"),
}


@pytest.mark.parametrize("case", WILD)
def test_only_the_wild_handlers_own_calls_fail(engine: EngineChoice, case: str) -> None:
    handler, expected = WILD[case]

    def declare() -> None:
        Pre(name="wild", concurrency=2)(handler)

        @Pre(name="good")
        def good(request: Any) -> None:
            request.headers["X-Stamp"] = "good"

        @Pre(name="good_async")
        async def good_async(request: Any) -> None:
            await asyncio.sleep(0.001)
            request.headers["X-Stamp"] = "good"

    with serving(table_of(declare), engine=engine, min_threads=2, max_threads=4) as server:
        for _ in range(6):
            wild = server.client.future(make_object(hook_name="wild"))
            good = [server.client.future(make_object(hook_name=name)) for name in ("good", "good_async")]
            code, text = error_of(wild)
            assert code is grpc.StatusCode.INTERNAL
            assert text.startswith(f'Pre hook "wild" {expected}')
            for call in good:
                reply = Object.FromString(call.result(timeout=PATIENCE_S))
                assert reply.request.set_headers["X-Stamp"] == "good"
        until(lambda: server.service.in_flight == 0)
        assert counts(server, "wild") == {"ran": 6, "failed": 6, "timed_out": 0, "shed": 0}


def test_an_async_handler_that_fails_after_its_client_is_gone(engine: EngineChoice) -> None:
    began, ended = threading.Event(), threading.Event()

    async def handler() -> None:
        began.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.set()
            raise ValueError("in the middle of cleaning up") from None

    with serving(hook_table(HookType.Pre, handler), engine=engine) as server:
        call = server.client.future(make_object())
        assert began.wait(PATIENCE_S)
        call.cancel()
        assert ended.wait(PATIENCE_S)
        until(lambda: server.service.in_flight == 0)


# Reload.


def versioned(version: int, gate: threading.Event | None = None) -> HookTable:
    def declare() -> None:
        @Pre(name="sync", concurrency=2)
        def sync(request: Any) -> None:
            if gate is not None:
                gate.wait(PATIENCE_S)
            request.headers["X-Stamp"] = str(version)

        @Pre(name="async")
        async def on_the_loop(request: Any) -> None:
            await asyncio.sleep(0)
            request.headers["X-Stamp"] = str(version)

    return table_of(declare)


def test_a_reload_under_load_fails_no_call(engine: EngineChoice) -> None:
    with serving(versioned(0), engine=engine) as server:
        stop = threading.Event()
        seen: set[str] = set()
        failures: list[Exception] = []

        def load(name: str) -> None:
            while not stop.is_set():
                try:
                    seen.add(stamped(server, name))
                except grpc.RpcError as error:
                    failures.append(error)

        threads = [threading.Thread(target=load, args=(name,)) for name in ("sync", "async") * 2]
        for thread in threads:
            thread.start()
        for version in range(1, 40):
            server.service.use(versioned(version))
            time.sleep(0.005)
        until(lambda: "39" in seen)
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert failures == []
        assert len(seen) > 5
        assert stamped(server, "sync") == stamped(server, "async") == "39"
        until(lambda: server.service.in_flight == 0)
        server.service.use(versioned(40))
        # Nothing is kept of hooks that are gone.
        assert [state.hook.name for state in server.service.states] == []


def test_calls_that_run_or_wait_end_on_the_old_handlers(
    engine: EngineChoice, release: threading.Event
) -> None:
    with serving(versioned(1, release), engine=engine) as server:
        old = [server.client.future(make_object(hook_name="sync")) for _ in range(5)]
        until(lambda: server.service.in_flight == 5)
        server.service.use(versioned(2))
        assert stamped(server, "sync") == "2"
        until(lambda: server.service.in_flight == 5)
        release.set()
        stamps = [Object.FromString(call.result(timeout=PATIENCE_S)).request.set_headers for call in old]
        assert [stamp["X-Stamp"] for stamp in stamps] == ["1"] * 5
        until(lambda: server.service.in_flight == 0)


# Events that handlers trigger.


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_event_that_a_handler_triggers(engine: EngineChoice, *, asynchronous: bool) -> None:
    seen: list[tuple[str, str, Any]] = []
    arrived = threading.Event()

    def take(event: Any) -> None:
        seen.append((event.type, event.api_id, event.meta["n"]))
        arrived.set()

    async def take_async(event: Any) -> None:
        await asyncio.sleep(0)
        take(event)

    def declare() -> None:
        @Pre(name="hook")
        def handler() -> None:
            trigger_event("tell", '{"n": 1}')

        Event(name="tell")(take_async if asynchronous else take)

    with serving(table_of(declare), engine=engine) as server:
        server.client.dispatch(make_object(api_id="a1"))
        assert arrived.wait(PATIENCE_S)
        until(lambda: server.service.in_flight == 0)
        assert counts(server, "tell")["ran"] == 1
    assert seen == [("tell", "a1", 1)]


def test_async_event_handlers_share_the_loop_with_the_others() -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    def declare() -> None:
        @Pre(name="hook")
        async def handler() -> None:
            loops.append(asyncio.get_running_loop())
            trigger_event("tell", "")

        @Event
        async def tell(event: Any) -> None:
            loops.append(asyncio.get_running_loop())

    with serving(table_of(declare)) as server:
        server.client.dispatch(make_object())
        until(lambda: len(loops) == 2)
    assert loops[0] is loops[1]


def test_an_event_that_nobody_takes_does_not_fail_the_handler() -> None:
    def handler() -> None:
        trigger_event("nobody", "{}")
        trigger_event("", "{}")

    with serving(hook_table(HookType.Pre, handler)) as server:
        server.client.dispatch(make_object())


def test_an_event_handler_that_fails_or_hangs_holds_up_no_other(release: threading.Event) -> None:
    arrived = threading.Semaphore(0)

    def declare() -> None:
        @Event(timeout=0.1)
        def hangs(event: Any) -> None:
            release.wait(PATIENCE_S)

        @Event
        def broken(event: Any) -> None:
            raise SystemExit(1)

        @Event
        def good(event: Any) -> None:
            arrived.release()

    with serving(table_of(declare)) as server:
        for _ in range(20):
            for name in ("hangs", "broken", "good"):
                trigger_event(name, "")
        for _ in range(20):
            assert arrived.acquire(timeout=PATIENCE_S)
        until(lambda: server.service.in_flight == 0)
        assert counts(server, "hangs")["timed_out"] == 20
        assert counts(server, "broken")["failed"] == 20


def test_stopping_waits_for_events_that_were_triggered() -> None:
    seen: list[int] = []

    def declare() -> None:
        @Event(concurrency=1)
        def tell(event: Any) -> None:
            time.sleep(0.002)
            seen.append(1)

    with serving(table_of(declare)) as server:
        for _ in range(20):
            trigger_event("tell", "")
        assert server.stop()
    assert len(seen) == 20


def test_without_a_service_an_event_is_an_error() -> None:
    with pytest.raises(RuntimeError, match='event "tell" was triggered, but no service runs'):
        trigger_event("tell", "{}")


# Parts.


@pytest.mark.parametrize("text", ["a", "é", "a\nb\0", "\ud800", "x" * 10_000, "é" * 10_000, "\u202e" * 5000])
def test_safe_text(text: str) -> None:
    safe = safe_text(ValueError(text))
    assert safe.isprintable()
    assert len(safe.encode()) <= 1500
    if len(text) < 5:
        assert safe == text or not text.isprintable()
        assert "\\" in safe or text.isprintable()
    else:
        assert safe.endswith("…")


def test_a_message_that_cannot_be_opened_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(hook_table(HookType.Pre, lambda: None)) as server:
        monkeypatch.setattr(server.service.dispatcher, "table", None)
        code, text = fails(lambda: server.client.dispatch(make_object()))
        assert (code, text) == (grpc.StatusCode.INTERNAL, "internal error: AttributeError")
        monkeypatch.undo()
        server.client.dispatch(make_object())


def test_drain_with_nothing_to_wait_for() -> None:
    service = Service(Dispatcher(HookTable()), ServiceOptions())
    assert service.drain(0)


def test_a_handler_may_serve_several_types(engine: EngineChoice) -> None:
    def declare() -> None:
        @Pre(name="hook")
        @Post(name="hook")
        @Response(name="hook")
        def handler(request: Any) -> None:
            seen.append(request.path)

    seen: list[str] = []
    with serving(table_of(declare), engine=engine) as server:
        for hook_type in (HookType.Pre, HookType.Post, HookType.Response):
            server.client.dispatch(make_object(hook_type))
    assert len(seen) == 3
