"""The body of an ASGI request, and a client that goes meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

from coprocess.gateways.web.asgi_messages import Message, Receive, Scope
from coprocess.gateways.web.http import HeldBody
from coprocess.runtime.answers import Answer

#: A handler that waits for so long is cancelled where its client goes.
_PATIENCE_S = 0.05
#: What may come of the request's body meanwhile.
_MAX_AHEAD_BYTES = 1 << 16


class ClientGone(Exception):
    """The client went while its body was read: nobody waits for an answer."""


class RequestBody(HeldBody):
    """The body of a request: passed on as it comes, or read first and passed on whole.

    It looks out for a client that goes, while a handler waits, and cancels that. What comes meanwhile is kept
    for the app, up to a bound: then it looks no more.
    """

    # No slots: most requests use none of this.
    _sent = False
    #: What came while a handler waited.
    _ahead: list[Message] | None = None
    _ahead_bytes = 0
    _task: asyncio.Task[Any] | None = None
    _timer: asyncio.TimerHandle | None = None
    _watcher: asyncio.Task[None] | None = None
    #: What came while a handler waited, or that nobody looks out any more, is told.
    _changed: asyncio.Event | None = None
    #: Whether the app waits for a message of the server.
    _is_asking = False
    #: Whether it has cancelled the task that waits, as the client is gone.
    has_cancelled = False

    def __init__(self, receive: Receive, limit_bytes: int, scope: Scope) -> None:
        #: The server's.
        self.receive_outer = receive
        self._limit_bytes = limit_bytes
        self._scope = scope

    @property
    def is_between(self) -> bool:
        """Whether the app must get its messages from here."""
        return self.is_read or self._ahead is not None

    def look_out(self) -> None:
        """A handler of this task waits from now on."""
        # Most handlers wait for less: they pay for a timer only.
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._timer = loop.call_later(_PATIENCE_S, self._begin_to_look)

    def look_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._task = None
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None
            if self._changed is not None:
                self._changed.set()

    def _begin_to_look(self) -> None:
        if self._is_asking:
            return  # A server is asked by one at a time: what the app gets is looked at.
        if self._ahead is None:
            self._ahead = []
        self._watcher = asyncio.ensure_future(self._watch(self._ahead))

    async def _watch(self, ahead: list[Message]) -> None:
        while self._ahead_bytes <= _MAX_AHEAD_BYTES:
            message = await self.receive_outer()
            ahead.append(message)
            if self._changed is not None:
                self._changed.set()
            if message["type"] == "http.disconnect":
                self._cancel_handler()
                return
            self._ahead_bytes += len(message.get("body", b""))
        self._watcher = None

    def _cancel_handler(self) -> None:
        if self._task is not None:
            self.has_cancelled = True
            self._task.cancel()

    async def _next(self) -> Message:
        while not self._ahead:
            if self._watcher is None or self._watcher.done():
                break
            # A handler after the app waits, and its task is not the one that asks here.
            if self._changed is None:
                self._changed = asyncio.Event()
            self._changed.clear()
            await self._changed.wait()
        if self._ahead:
            return self._ahead.pop(0)
        self._is_asking = True
        try:
            message = await self.receive_outer()
        finally:
            self._is_asking = False
        if message["type"] == "http.disconnect":
            self._cancel_handler()
        return message

    async def read(self) -> Answer | None:
        """Read it all. An Answer where it is too large. Raises ClientGone."""
        for name, value in self._scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self._limit_bytes:
                return self._too_large()
        chunks, size = [], 0
        while True:
            message = await self._next()
            if message["type"] != "http.request":
                raise ClientGone
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > self._limit_bytes:
                return self._too_large()
            if not message.get("more_body", False):
                break
        self.replace(b"".join(chunks))
        return None

    async def for_app(self) -> Message:
        """What the app gets."""
        if not self.is_read:
            return await self._next()
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        while True:
            message = await self._next()
            # Where the body was replaced unread, what came of it is not the app's to see.
            if message["type"] != "http.request":
                return message
