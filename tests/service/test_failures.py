"""What a failure does, and wild handlers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from coprocess import CustomKeyCheck, Pre
from coprocess.api.moments import HookType
from coprocess.gateways.tyk.wire import Object
from coprocess.runtime.service_options import ServiceOptions
from coprocess.transport.engines import EngineChoice
from tests.objects import hook_table, make_object, table_of
from tests.server import PATIENCE_S, error_of, fails, serving, until
from tests.service.hooks import blocking_table, counts


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
