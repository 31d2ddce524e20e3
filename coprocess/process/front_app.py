"""A service with several worker processes: what the front process does from start to stop."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import structlog

from coprocess.errors import LoadError
from coprocess.process import extras
from coprocess.process.app import STOP_TIMEOUT_S, TICK_S, App, engine_options
from coprocess.process.config import OFF
from coprocess.process.front import Front
from coprocess.transport.engines import make_engine

log = structlog.get_logger("coprocess")


class FrontApp(App):
    """Holds the connections; the workers, which are services of their own, have handlers and store."""

    def run(self, on_ready: Callable[[list[str]], None] | None = None) -> None:
        settings = self.settings
        if settings.traces != OFF:
            # The workers do it. But here one is told of it once, and before they are started.
            extras.need_tracing()
        with ExitStack() as at_end:
            self._handle_signals(at_end)
            folder = Path(at_end.enter_context(tempfile.TemporaryDirectory(prefix="coprocess-")))
            sockets = [folder / f"worker-{number}.sock" for number in range(settings.workers)]
            own_engine = self.gateway.front_engine
            front = Front(
                sockets,
                self.gateway.methods,
                silence_s=settings.worker_silence_s,
                pass_trace_context=settings.traces != OFF,
                flags=() if own_engine is None else ("--shared-folder", str(folder)),
            )
            if own_engine is not None:
                engine, reason = (
                    own_engine(folder, settings.workers, lambda: front.ready),
                    "the gateway's own",
                )
            else:
                engine, reason = make_engine(settings.engine, engine_options(settings))
            self._engine = engine
            front.on_failure = self.request_stop
            addresses = [self._listen(engine, address, at_end) for address in settings.listen]
            if settings.admin != OFF:
                from coprocess.process.front_admin import FrontPages

                self._serve_admin(at_end, FrontPages(self.health, sockets, front, engine))
            at_end.callback(front.stop, settings.shutdown_timeout_s + STOP_TIMEOUT_S)
            engine.start(self._held.methods | self._always)
            at_end.callback(engine.stop)
            at_end.callback(self.health.close)
            if not front.start(lambda: self._stop):
                if self._stop:
                    log.info("stopped")
                    return
                raise LoadError("a worker process could not start; its log tells why")
            if settings.reload:
                watch = self._watch_files(lambda: front.signal(signal.SIGHUP))
                at_end.callback(watch.stop)
            log.info(
                "listening", listen=addresses, engine=engine.name, because=reason, workers=settings.workers
            )
            engine.use(front.methods | self._always)
            self._held.pass_on(front.methods)
            front.watch_readiness(self.health.set_serving)
            log.info("serving")
            self._manager.ready(f"{settings.workers} workers")
            if on_ready is not None:
                on_ready(addresses)
            while not self._stop:
                for request in self._take_requests(TICK_S):
                    # Each worker tells of its own reload, in its log and at its admin pages.
                    request.future.cancel()
                    self._manager.reloading()
                    front.signal(signal.SIGHUP)
                    self._manager.ready(f"{settings.workers} workers")
            if front.failure:
                raise LoadError(front.failure)
            self._drain(front)
        log.info("stopped")
