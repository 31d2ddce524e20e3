"""Handlers that are swapped while calls run."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import grpc

from coprocess import Pre
from coprocess.gateways.tyk.wire import Object
from coprocess.loading.hooks import HookTable
from coprocess.transport.engines import EngineChoice
from tests.objects import make_object, table_of
from tests.server import PATIENCE_S, serving, until
from tests.service.hooks import stamped


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
            if version % 6 == 0:  # Else a busy machine may have swapped all before it calls any.
                until(lambda version=version: str(version) in seen)  # type: ignore[misc]  # a default is no parameter
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
        assert [state.hook.name for state in server.service.gates.states] == []


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
