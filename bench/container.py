"""Resources of an App against a container of the same, dishka, on the way of a call.

    pip install dishka        # not among the dependencies
    python bench/container.py

One resource lives as long as the program, and one as long as a call, and is made of the other. Microseconds a
call, the best of several rounds. With dishka: a container of the call, opened, asked and closed, as its
integrations do it. Ours: what is more than the call of a handler that asks for nothing.
"""

from __future__ import annotations

import importlib.metadata
import sys
import timeit
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lifecycle import CALLS, ROUNDS, hook_of, microseconds

from coprocess import App, Request

try:
    from dishka import Provider, Scope, make_async_container, make_container, provide
except ImportError:
    sys.exit("dishka is not installed. Expected: pip install dishka")


class Pool:
    """Lives as long as the program."""


class Work:
    """Lives as long as the call."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool


def app(*, per_call: bool, asynchronous: bool) -> App:
    app = App()

    @app.resource
    def pool() -> Iterator[Pool]:
        yield Pool()

    if per_call and asynchronous:

        @app.resource(scope="call")
        async def work(pool: Pool) -> AsyncIterator[Work]:
            yield Work(pool)

    elif per_call:

        @app.resource(name="work", scope="call")
        def sync_work(pool: Pool) -> Iterator[Work]:
            yield Work(pool)

    return app


def asks_pool(request: Request, pool: Pool) -> None:
    pass


async def async_asks_pool(request: Request, pool: Pool) -> None:
    pass


def asks_work(request: Request, work: Work) -> None:
    pass


async def async_asks_work(request: Request, work: Work) -> None:
    pass


def bare(request: Request) -> None:
    pass


async def async_bare(request: Request) -> None:
    pass


def ours(function: Callable[..., Any], *apps: App) -> float:
    return microseconds(hook_of(function, *apps))


class Sync(Provider):
    @provide(scope=Scope.APP)
    def pool(self) -> Iterator[Pool]:
        yield Pool()

    @provide(scope=Scope.REQUEST)
    def work(self, pool: Pool) -> Iterator[Work]:
        yield Work(pool)


class Async(Provider):
    @provide(scope=Scope.APP)
    def pool(self) -> Iterator[Pool]:
        yield Pool()

    @provide(scope=Scope.REQUEST)
    async def work(self, pool: Pool) -> AsyncIterator[Work]:
        yield Work(pool)


def theirs(wanted: type) -> float:
    container = make_container(Sync(), lock_factory=None)

    def call() -> None:
        with container() as of_call:
            of_call.get(wanted)

    return best(call)


def theirs_async(wanted: type) -> float:
    container = make_async_container(Async(), lock_factory=None)

    async def steps() -> None:
        async with container() as of_call:
            await of_call.get(wanted)

    def call() -> None:
        try:
            steps().send(None)
        except StopIteration:
            return

    return best(call)


def best(call: Callable[[], None]) -> float:
    return min(timeit.repeat(call, number=CALLS, repeat=ROUNDS)) / CALLS * 1e6


def main() -> None:
    without, without_async = ours(bare), ours(async_bare)
    pools, works = app(per_call=False, asynchronous=False), app(per_call=True, asynchronous=False)
    async_works = app(per_call=True, asynchronous=True)
    rows = {
        "a resource of the App": (
            ours(asks_pool, pools) - without,
            theirs(Pool),
            ours(async_asks_pool, pools) - without_async,
            theirs_async(Pool),
        ),
        "one of the call, made of it": (
            ours(asks_work, works) - without,
            theirs(Work),
            ours(async_asks_work, async_works) - without_async,
            theirs_async(Work),
        ),
    }
    version = importlib.metadata.version("dishka")
    print(
        f"{'µs a call':30}{'sync: App':>12}{'dishka':>9}{'async: App':>13}{'dishka':>9}   (dishka {version})"
    )
    for name, row in rows.items():
        print(f"{name:30}{row[0]:12.2f}{row[1]:9.2f}{row[2]:13.2f}{row[3]:9.2f}")


if __name__ == "__main__":
    main()
