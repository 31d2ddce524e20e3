"""The link to the server of a configured store: its clients, and commands done with them in time.

How deadlines and retries work is said in `coprocess.store`. This module imports redis-py and asyncio, so it
is itself imported when a store is configured.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from coprocess.store import loops, sync_clients
from coprocess.store.address import Address
from coprocess.store.async_clients import drop_dead_connections
from coprocess.store.deadline import this_thread
from coprocess.store.embedded import EmbeddedValkey
from coprocess.store.failures import ERRORS, Failure, explain, is_closed_transport

Outcome = tuple[Any, Failure | None]
Command = tuple[Any, ...]


class Link:
    """All that one configured store holds: its address, its clients, and maybe an embedded server."""

    def __init__(
        self, address: Address, timeout_s: float, max_connections: int, embedded: EmbeddedValkey | None
    ) -> None:
        self.address = address
        self.loop_clients: loops.LoopClients = {}
        self._timeout_s = timeout_s
        self._max_connections = max_connections
        self._embedded = embedded
        self._client: Any = None
        self._to_close: list[Callable[[], None]] = []
        self._building = threading.Lock()
        # A queue of permissions, as its get() takes a timeout and is much quicker than a Semaphore's acquire.
        self._turns: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(max_connections):
            self._turns.put(None)
        # Kept in a child: its finalizers would act on the parent's loops.
        self._inherited: Link | None = None

    def after_fork(self) -> Link:
        """The same for a forked child, which can use neither its parent's connections nor its locks."""
        link = Link(self.address, self._timeout_s, self._max_connections, self._embedded)
        link._inherited = self
        return link

    def run(self, command: Command, repeatable: bool) -> Outcome:
        """The command's result, or why there is none. `repeatable`: doing it twice is the same as once."""
        deadline = this_thread.deadline = time.monotonic() + self._timeout_s
        try:
            self._turns.get(timeout=self._timeout_s)
        except queue.Empty:
            return None, Failure(f"no connection became free within {self._timeout_s:g} s")
        try:
            result, failure = self._try(command, deadline)
            if failure is None or not failure.connection_lost:
                return result, failure
            if failure.client_broken:
                self._discard_client()
            if self._embedded is not None:
                self._embedded.revive(deadline - time.monotonic())
            return self._try(command, deadline) if repeatable else (None, failure)
        finally:
            self._turns.put(None)

    async def run_async(self, command: Command, repeatable: bool) -> Outcome:
        """As `run`, on the running loop."""
        deadline = time.monotonic() + self._timeout_s
        failure: Failure | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                for _ in range(2 if repeatable else 1):
                    entry = await loops.client_of_running_loop(
                        self.loop_clients, self.address, self._timeout_s, self._max_connections
                    )
                    async with entry.turns:
                        if not repeatable:
                            await drop_dead_connections(entry.client)
                        try:
                            return await entry.client.execute_command(*command), None
                        except ERRORS as error:
                            failure = explain(error, self.address, self._timeout_s, deadline)
                        except (RuntimeError, AttributeError) as error:
                            if not is_closed_transport(error):
                                raise
                            failure = Failure("the connection was closed", connection_lost=True)
                    if not failure.connection_lost:
                        break
                    if failure.client_broken:
                        await entry.close()
                    if self._embedded is not None:
                        await asyncio.to_thread(self._embedded.revive, deadline - time.monotonic())
        except ERRORS as error:
            failure = explain(error, self.address, self._timeout_s, deadline)
        return None, failure

    async def close_running_loop(self) -> None:
        """Close the running loop's client. Its next command makes a new one."""
        entry = self.loop_clients.get(asyncio.get_running_loop())
        if entry is not None:
            await entry.close()

    def close(self) -> None:
        loops.close_soon(self.loop_clients)
        for close in self._to_close:
            close()
        if self._embedded is not None:
            self._embedded.close()

    def _try(self, command: Command, deadline: float) -> Outcome:
        try:
            client = self._client or self._make_client(deadline)
            return client.execute_command(*command), None
        except ERRORS as error:
            return None, explain(error, self.address, self._timeout_s, deadline)

    def _make_client(self, deadline: float) -> Any:
        if not self._building.acquire(timeout=max(deadline - time.monotonic(), 0.0)):
            raise TimeoutError("the deadline has passed")
        try:
            if self._client is None:
                self._client, self._to_close = sync_clients.make_client(
                    self.address, self._timeout_s, self._max_connections
                )
            return self._client
        finally:
            self._building.release()

    def _discard_client(self) -> None:
        """Have the next command make a new one."""
        with self._building:
            self._client = None
            for close in self._to_close:
                close()
            self._to_close = []
