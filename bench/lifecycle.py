"""What an App costs a call: one `before`, `after`, `teardown` and one resource, against a bare handler.

    python bench/lifecycle.py [--json]

Microseconds of `Call.run`, in this process and without a transport; the best of several rounds.
"""

from __future__ import annotations

import json
import sys
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from coprocess import App, Pre, Reply, Request
from coprocess.api.held import HeldHeaders, HeldRequest
from coprocess.loading.home import Home
from coprocess.loading.hooks import Hook
from coprocess.loading.objects import load_objects
from coprocess.runtime.held_call import HeldCall, HeldExchange
from coprocess.runtime.held_spec import HeldSpec

CALLS, ROUNDS = 20_000, 9


def handler(request: Request) -> None:
    pass


async def async_handler(request: Request) -> None:
    pass


def with_resource(request: Request, db: list[int]) -> None:
    pass


async def async_with_resource(request: Request, db: list[int]) -> None:
    pass


def app_of_all() -> App:
    app = App()

    @app.resource
    def db() -> Iterator[list[int]]:
        yield []

    @app.before
    def begin(request: Request) -> None:
        pass

    @app.after
    def end(response: Reply | None) -> None:
        pass

    @app.teardown
    def done(error: BaseException | None) -> None:
        pass

    return app


def hook_of(function: Callable[..., Any], *apps: App) -> Hook:
    # A home whose calls are each on their own, as at a gateway.
    loaded = load_objects([Pre(name="handler")(function), *apps], Home("bench"))
    loaded.open(lambda coroutine: NotImplemented, 1.0)
    return next(iter(loaded.table))


def microseconds(hook: Hook) -> float:
    exchange = HeldExchange(HeldRequest("GET", "/", HeldHeaders()), HeldSpec("", "", {}))
    if hook.is_async:

        def call() -> None:
            try:
                HeldCall(hook, exchange).run_async().send(None)
            except StopIteration:
                return

    else:

        def call() -> None:
            HeldCall(hook, exchange).run()

    return min(timeit.repeat(call, number=CALLS, repeat=ROUNDS)) / CALLS * 1e6


def figures_us() -> dict[str, list[float]]:
    """For each, sync and async."""
    return {
        "no App": [microseconds(hook_of(each)) for each in (handler, async_handler)],
        "an App that declares nothing": [
            microseconds(hook_of(each, App())) for each in (handler, async_handler)
        ],
        "all four": [
            microseconds(hook_of(each, app_of_all())) for each in (with_resource, async_with_resource)
        ],
    }


def main() -> None:
    figures = figures_us()
    if "--json" in sys.argv:
        print(json.dumps(figures))
        return
    print(f"{'µs a call':34}{'sync':>8}{'async':>8}")
    for label, row in figures.items():
        print(f"{label:34}{row[0]:8.2f}{row[1]:8.2f}")
    (sync, asynchronous), (bare, bare_async) = figures["all four"], figures["no App"]
    print(f"{'all four cost':34}{sync - bare:8.2f}{asynchronous - bare_async:8.2f}")


if __name__ == "__main__":
    main()
