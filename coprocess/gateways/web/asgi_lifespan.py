"""The lifespan of an ASGI app with handlers around it."""

from __future__ import annotations

from typing import Any, Protocol

import structlog

from coprocess.error_text import format_error
from coprocess.gateways.web.asgi_messages import Message, Receive, Scope, Send

log = structlog.get_logger("coprocess")


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
        self._is_to_stop = False
        self._is_over = False

    async def run(self, scope: Scope) -> None:
        try:
            await self._around.app(scope, self._receive, self._send)
        except Exception as error:
            if self._has_answered:
                await self._around.close()
                raise
            if self._has_started:
                # It may know no lifespan; or its start has failed, which nobody else would tell.
                log.error(
                    "the app raised at its start, and is served without a lifespan",
                    exception=format_error(error),
                )
        if not self._is_over:
            await self._rest()

    async def _rest(self) -> None:
        """What the app has left of it."""
        if not self._has_answered:
            # An app that knows no lifespan.
            if not self._has_started:
                await self._receive()
            await self._send_outer({"type": "lifespan.startup.complete"})
        while not self._is_to_stop:
            await self._receive()
        await self._around.close()
        await self._send_outer({"type": "lifespan.shutdown.complete"})

    async def _receive(self) -> Message:
        message = await self._receive_outer()
        if message["type"] == "lifespan.startup":
            self._has_started = True
            # First: the app's own start may call itself.
            await self._around.open()
        elif message["type"] == "lifespan.shutdown":
            self._is_to_stop = True
        return message

    async def _send(self, message: Message) -> None:
        self._has_answered = True
        if message["type"] in (
            "lifespan.startup.failed",
            "lifespan.shutdown.complete",
            "lifespan.shutdown.failed",
        ):
            self._is_over = True
            await self._around.close()
        await self._send_outer(message)
