"""The lifespan of an ASGI app with handlers around it."""

from __future__ import annotations

from typing import Any, Protocol

from coprocess.gateways.web.asgi_messages import Message, Receive, Scope, Send


class Opening(Protocol):
    """An app with handlers around it."""

    app: Any

    async def open(self) -> None:
        """Make that the handlers can run."""

    async def close(self) -> None:
        """Undo that."""


class Lifespan:
    """Passes the app's lifespan on, with the handlers' around it; is one, where the app has none."""

    def __init__(self, around: Opening, receive: Receive, send: Send) -> None:
        self._around = around
        self._receive_outer = receive
        self._send_outer = send
        self._has_started = False
        self._has_answered = False

    async def run(self, scope: Scope) -> None:
        try:
            await self._around.app(scope, self._receive, self._send)
        except Exception:
            if self._has_answered:
                await self._around.close()
                raise
        if self._has_answered:
            return
        # An app that knows no lifespan.
        if not self._has_started:
            await self._receive()
        await self._send_outer({"type": "lifespan.startup.complete"})
        await self._receive_outer()
        await self._around.close()
        await self._send_outer({"type": "lifespan.shutdown.complete"})

    async def _receive(self) -> Message:
        message = await self._receive_outer()
        if message["type"] == "lifespan.startup":
            self._has_started = True
            # First: the app's own start may call itself.
            await self._around.open()
        return message

    async def _send(self, message: Message) -> None:
        self._has_answered = True
        if message["type"] in (
            "lifespan.startup.failed",
            "lifespan.shutdown.complete",
            "lifespan.shutdown.failed",
        ):
            await self._around.close()
        await self._send_outer(message)
