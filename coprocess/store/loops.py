"""A client for each event loop, as connections cannot change loops; closed when its loop ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from coprocess.store import async_clients
from coprocess.store.address import Address


@dataclass
class LoopClient:
    client: Any
    turns: asyncio.Semaphore
    closing: AsyncGenerator[None, None]
    closing_task: asyncio.Task[None] | None = None  # Kept, as a loop keeps no strong reference to its tasks.

    async def close(self) -> None:
        await self.closing.aclose()


LoopClients = dict[asyncio.AbstractEventLoop, LoopClient]


async def client_of_running_loop(
    clients: LoopClients, address: Address, timeout_s: float, max_connections: int
) -> LoopClient:
    """The running loop's of `clients`, made if need be. Those of loops closed without notice are dropped."""
    loop = asyncio.get_running_loop()
    entry = clients.get(loop)
    if entry is not None:
        return entry
    for other in list(clients):
        if other.is_closed():
            clients.pop(other, None)
    client, to_close = async_clients.make_client(address, timeout_s, max_connections)
    entry = LoopClient(client, asyncio.Semaphore(max_connections), _close_with_loop(clients, loop, to_close))
    clients[loop] = entry
    await anext(entry.closing)  # From now on, the loop knows that it must close it.
    return entry


def close_soon(clients: LoopClients) -> None:
    """Have all running loops close their clients. From any thread."""
    for loop, entry in list(clients.items()):
        if loop.is_running():
            loop.call_soon_threadsafe(_start_closing, loop, entry)


async def _close_with_loop(
    clients: LoopClients, loop: asyncio.AbstractEventLoop, to_close: list[Callable[[], Awaitable[None]]]
) -> AsyncGenerator[None, None]:
    # asyncio.run() closes a loop's open generators before the loop: its notice that the loop ends.
    try:
        yield
    finally:
        clients.pop(loop, None)
        for close in to_close:
            await close()


def _start_closing(loop: asyncio.AbstractEventLoop, entry: LoopClient) -> None:
    entry.closing_task = loop.create_task(entry.close())
