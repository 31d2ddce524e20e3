"""What an App costs a call: one `before`, `after`, `teardown` and one resource, against a bare handler.

    python bench/lifecycle.py

Microseconds of `Call.run`, in this process and without a transport; the best of several rounds.
"""

from __future__ import annotations

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


def main() -> None:
    print(f"{'µs a call':34}{'sync':>8}{'async':>8}")
    bare = [microseconds(hook_of(each)) for each in (handler, async_handler)]
    nothing = [microseconds(hook_of(each, App())) for each in (handler, async_handler)]
    whole = [microseconds(hook_of(each, app_of_all())) for each in (with_resource, async_with_resource)]
    for label, row in (("no App", bare), ("an App that declares nothing", nothing), ("all four", whole)):
        print(f"{label:34}{row[0]:8.2f}{row[1]:8.2f}")
    print(f"{'all four cost':34}{whole[0] - bare[0]:8.2f}{whole[1] - bare[1]:8.2f}")


if __name__ == "__main__":
    main()
