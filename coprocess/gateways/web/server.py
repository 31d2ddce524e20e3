"""An app with handlers around it, served by uvicorn: the engine of `coprocess serve --web`."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from coprocess.errors import CoprocessError
from coprocess.transport.engine import EngineWithoutHandlers, ListenError, Methods

_BACKLOG = 2048
_STOP_TIMEOUT_S = 5.0


class WebServer(EngineWithoutHandlers):
    """Listens from the start; who comes before the handlers serve waits in the backlog."""

    name = "uvicorn"

    def __init__(self, app: Any, shutdown_timeout_s: float) -> None:
        """`app` is an ASGI app."""
        import uvicorn

        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                interface="asgi3",
                # By its name: uvicorn's choice has been one that websockets calls deprecated.
                ws="websockets-sansio" if importlib.util.find_spec("websockets") else "none",
                log_config=None,
                # What it does as a server, the service tells.
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=max(1, round(shutdown_timeout_s)),
            )
        )
        self._sockets: list[socket.socket] = []
        self._loop = _new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="web", daemon=True)
        self._serving: Future[Any] | None = None

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Run `coroutine` on the app's loop, from any other thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def listen(self, address: str) -> str:
        path = address.removeprefix("unix:")
        host, _, port = address.rpartition(":")
        is_unix, host = path != address, host.strip("[]")
        family = socket.AF_UNIX if is_unix else socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            if is_unix:
                listener.bind(path)
            else:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((host, int(port)))
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            reason = error.strerror or str(error)
            raise ListenError(f"cannot listen on {address}: {reason}") from None
        listener.setblocking(False)
        self._sockets.append(listener)
        if is_unix:
            return address
        bound_port: int = listener.getsockname()[1]
        return f"{address.rpartition(':')[0]}:{bound_port}"

    def start(self, methods: Methods) -> None:
        self._thread.start()

    def begin(self) -> None:
        """Let requests in. Raises CoprocessError where the app does not start."""
        if self._serving is not None:
            return
        self._serving = self.spawn(self._server.serve(self._sockets))
        while not self._server.started:
            try:
                self._serving.result(0.01)
            except TimeoutError:
                continue
            except BaseException as error:
                raise CoprocessError(f"the app did not start: {type(error).__name__}: {error}") from error
            if not self._server.started:
                raise CoprocessError("the app did not start: its lifespan failed. The log says why")

    @property
    def in_flight(self) -> int:
        # Those that are answered and only end their connection's turn are among them, for a moment.
        return len(self._server.server_state.tasks)

    def drain(self, timeout_s: float) -> bool:
        self._server.should_exit = True
        if self._serving is None:
            return True
        try:
            # And the app's own shut-down.
            self._serving.result(timeout_s + _STOP_TIMEOUT_S)
        except TimeoutError:
            self._server.force_exit = True
            return False
        except BaseException:  # noqa: BLE001 - it has ended, in its own way
            return True
        return True

    def stop(self) -> None:
        self.drain(0)
        for each in self._sockets:
            # uvicorn closes those that it served on.
            with suppress(OSError):
                each.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_TIMEOUT_S)


def _new_loop() -> asyncio.AbstractEventLoop:
    if os.name == "posix":
        with suppress(ImportError):
            import uvloop

            loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
            return loop
    return asyncio.new_event_loop()


def asgi_of(app: Callable[..., Any], workers: int) -> Any:
    """A WSGI app as an ASGI app, with so many threads."""
    from a2wsgi import WSGIMiddleware

    inner = WSGIMiddleware(app, workers=workers)

    async def without_folded_names(scope: Any, receive: Any, send: Any) -> None:
        # In `environ`, X_User and X-User are one: a client's would stand beside what a handler has set.
        if scope["type"] == "http":
            scope = {**scope, "headers": [pair for pair in scope["headers"] if b"_" not in pair[0]]}
        await inner(scope, receive, send)

    return without_folded_names
