"""A service with several worker processes: what the front process does from start to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import structlog

from coprocess.errors import ConfigError, LoadError
from coprocess.process import extras, logs
from coprocess.process.allocator import keep_freed_memory
from coprocess.process.app import STOP_TIMEOUT_S, TICK_S, App
from coprocess.process.config import OFF, OWN
from coprocess.process.front import Front
from coprocess.process.front_folder import folder_of_front, log_lock
from coprocess.process.options import engine_options
from coprocess.transport.engine import Engine
from coprocess.transport.engines import make_engine

log = structlog.get_logger("coprocess")


class FrontApp(App):
    """Holds the connections; the workers, which are services of their own, have handlers and store.

    Where each worker listens itself (`worker_listen`), this only looks after them.
    """

    def run(self, on_ready: Callable[[list[str]], None] | None = None) -> None:
        settings = self.settings
        keep_freed_memory()
        if settings.traces != OFF:
            # The workers do it. But here one is told of it once, and before they are started.
            extras.need_tracing()
        with ExitStack() as at_end:
            self._handle_signals(at_end)
            folder = at_end.enter_context(folder_of_front())
            logs.take_turns(log_lock(folder))
            sockets = [folder / f"worker-{number}.sock" for number in range(settings.workers)]
            front = Front(
                sockets,
                self.gateway.methods,
                silence_s=settings.worker_silence_s,
                pass_trace_context=settings.traces != OFF,
                flags=self._worker_flags(folder),
                addresses=settings.listen if settings.worker_listen == OWN else (),
            )
            engine, reason = self._make_engine(folder, front)
            self._engine = engine
            front.on_failure = self.request_stop
            addresses = [] if engine is None else self._listening.for_gateway(engine, at_end)
            if settings.admin != OFF:
                from coprocess.process.front_admin import FrontPages

                self._listening.for_admin(FrontPages(self.health, sockets, front, engine), at_end)
            # A worker that takes calls itself drains as a service does, once it is told to stop.
            drain_s = settings.drain_s if engine is None else 0.0
            at_end.callback(front.stop, drain_s + settings.shutdown_timeout_s + STOP_TIMEOUT_S)
            if engine is not None:
                engine.start(self._held.methods | self._always)
                at_end.callback(engine.stop)
                at_end.callback(self.health.close)
            if not front.start(lambda: self._stop, None if engine is None else engine.poller):
                if front.failure:
                    raise LoadError(front.failure)
                if self._stop:
                    log.info("stopped")
                    return
                raise LoadError(f"a worker process could not start: {front.start_failure}")
            if settings.reload:
                watch = self._watch_files(lambda: front.signal(signal.SIGHUP))
                at_end.callback(watch.stop)
            addresses = addresses or front.addresses
            if engine is not None:
                engine.use(front.methods | self._always)
                self._held.pass_on(front.methods)
            log.info(
                "listening",
                listen=addresses,
                engine="the workers' own" if engine is None else engine.name,
                because=reason,
                workers=settings.workers,
            )
            front.watch_readiness(self.health.set_serving)
            log.info("serving")
            self._manager.ready(f"{settings.workers} workers")
            if on_ready is not None:
                on_ready(addresses)
            while not self._stop:
                for request in self.requests.take(TICK_S):
                    # Each worker tells of its own reload, in its log and at its admin pages.
                    request.future.cancel()
                    self._manager.reloading()
                    front.signal(signal.SIGHUP)
                    self._manager.ready(f"{settings.workers} workers")
            if front.failure:
                raise LoadError(front.failure)
            if engine is None:
                self.health.set_serving(False)
                self._manager.stopping()
                log.info("stopping", drain_s=settings.drain_s)
            else:
                self._drain(front)
        log.info("stopped")

    def _worker_flags(self, folder: Path) -> tuple[str, ...]:
        if self.gateway.front_engine is not None:
            return "--shared-folder", str(folder)
        if self.settings.worker_listen == OWN:
            return ()
        # The front has drained by the time that they stop.
        return "--drain-s", "0"

    def _make_engine(self, folder: Path, front: Front) -> tuple[Engine | None, str]:
        """As of `transport.engines`. None: each worker has one."""
        settings = self.settings
        if self.gateway.front_engine is not None:
            engine = self.gateway.front_engine(
                folder, settings.workers, lambda: front.ready, lambda: front.pids
            )
            return engine, "the gateway's own"
        if settings.worker_listen == OWN:
            if self._listening.inherited:
                raise ConfigError(
                    "worker_listen: own, and systemd passes sockets, which are the front's. Expected: front"
                )
            return None, "worker_listen is own"
        if self.gateway.engine is not None:
            raise ConfigError(
                f"workers: {self.gateway.home.name} has a server of its own, which no front stands before. "
                'Expected: 1, or worker_listen = "own"'
            )
        return make_engine(settings.engine, engine_options(settings))
