"""What a handler sets in its context is no other call's."""

from __future__ import annotations

import contextvars
import decimal
from typing import Any

import pytest

from coprocess import Event, Pre, trigger_event
from coprocess.desk.tyk.trial import InProcessDispatcher
from coprocess.gateways.tyk.wire import Object
from coprocess.loading.hooks import HookTable
from coprocess.transport.engines import EngineChoice
from tests.objects import make_object, table_of
from tests.server import PATIENCE_S, serving, until

NAMES = ("sync", "on_the_loop")
#: As what a module sets when it is loaded.
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="fresh")


def stateful() -> HookTable:
    """Each call tells what it finds in its context, and leaves something there."""

    def visit() -> str:
        found = f"{variable.get()} {decimal.getcontext().prec}"
        variable.set("left by another call")
        decimal.getcontext().prec = 3
        return found

    def declare() -> None:
        # With one place: calls wait, and the thread of an earlier one runs them.
        @Pre(concurrency=1)
        def sync(request: Any) -> None:
            request.headers["X-Found"] = visit()

        @Pre(concurrency=1)
        async def on_the_loop(request: Any) -> None:
            request.headers["X-Found"] = visit()

    return table_of(declare)


@pytest.mark.parametrize("name", NAMES)
def test_no_call_finds_what_another_has_set(engine: EngineChoice, name: str) -> None:
    variable.set("of the test")
    with serving(stateful(), engine=engine, min_threads=1, max_threads=2) as server:
        calls = [server.client.future(make_object(hook_name=name)) for _ in range(40)]
        replies = [Object.FromString(call.result(PATIENCE_S)) for call in calls]
    assert {reply.request.set_headers["X-Found"] for reply in replies} == {"fresh 28"}


@pytest.mark.parametrize("name", NAMES)
def test_nor_does_one_under_try_and_the_fixtures(name: str) -> None:
    variable.set("of the test")
    with InProcessDispatcher(stateful()) as dispatcher:
        for _ in range(3):
            reply = Object.FromString(dispatcher.dispatch(make_object(hook_name=name).SerializeToString()))
            assert reply.request.set_headers["X-Found"] == "fresh 28"
    assert variable.get() == "of the test"


@pytest.mark.parametrize("name", NAMES)
def test_an_event_has_another_context_than_the_call_that_triggered_it(
    engine: EngineChoice, name: str
) -> None:
    found: list[str] = []

    def declare() -> None:
        @Pre
        def sync() -> None:
            variable.set("of the call")
            trigger_event("local", "{}")

        @Pre
        async def on_the_loop() -> None:
            variable.set("of the call")
            trigger_event("local_async", "{}")

        @Event
        def local(event: Any) -> None:
            found.append(variable.get())
            variable.set("of the event")

        @Event
        async def local_async(event: Any) -> None:
            found.append(variable.get())
            variable.set("of the event")

    with serving(table_of(declare), engine=engine) as server:
        for count in (1, 2, 3):
            server.client.dispatch(make_object(hook_name=name))
            until(lambda count=count: len(found) == count)  # type: ignore[misc]  # a default is no parameter
    assert found == ["fresh"] * 3
