"""The service from start to stop: loads handlers, opens the store, listens, serves, drains, ends."""

from __future__ import annotations

import os
import signal
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import structlog

from coprocess import loader, store
from coprocess.config import Settings
from coprocess.errors import CoprocessError, LoadError
from coprocess.server import logs
from coprocess.server.engine import Engine, EngineOptions, ListenError
from coprocess.server.engines import make_engine
from coprocess.server.service import Service, ServiceOptions
from coprocess.tyk.compat import ALIASES
from coprocess.tyk.dispatcher import Dispatcher

log = structlog.get_logger("coprocess")

_MIN_THREADS = 4
_MAX_CONCURRENT_STREAMS = 65_536
_MAX_METADATA_BYTES = 16_384


class App:
    """One service in this process. `run` returns when a signal, or `request_stop`, has ended it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._stop = threading.Event()
        self._signals = 0

    def run(self, on_ready: Callable[[list[str]], None] | None = None) -> None:
        """Serve until told to stop. `on_ready` gets the addresses.

        Raises CoprocessError where it cannot start.
        """
        settings = self.settings
        loaded = load_handlers(settings)
        engine, reason = make_engine(settings.engine, engine_options(settings))
        dispatcher = Dispatcher(loaded.table, full_reply=settings.full_reply)
        service = Service(dispatcher, service_options(settings))
        service.replace_thread = engine.replace_thread
        addresses = [_listen(engine, address) for address in settings.listen]
        try:
            store.configure(settings.redis, timeout_s=settings.store_timeout_s, data_dir=settings.data_dir)
        except CoprocessError:
            _remove_sockets(addresses)
            raise
        self._handle_signals()
        with logs.capturing_prints():
            service.start()
            engine.start(service.handle)
            log.info("serving", listen=addresses, engine=engine.name, because=reason, store=store.describe())
            for hook in sorted(loaded.table, key=lambda hook: (hook.type, hook.name)):
                log.info(
                    "hook", type=hook.type.name, name=hook.name, style=hook.style, source=str(hook.source)
                )
            if not len(loaded.table):
                log.warning("no handlers are loaded", folders=[str(folder) for folder in settings.folders])
            if on_ready is not None:
                on_ready(addresses)
            while not self._stop.wait(_SIGNAL_INTERVAL_S):
                pass
            log.info("stopping", in_flight=service.in_flight)
            if not service.drain(settings.shutdown_timeout_s):
                log.warning("calls were still running", in_flight=service.in_flight)
            engine.stop()
            service.stop(_STOP_TIMEOUT_S)
        _remove_sockets(addresses)
        store.close()
        log.info("stopped")

    def request_stop(self) -> None:
        self._stop.set()

    def _handle_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        self._signals += 1
        if self._signals > 1:
            # Somebody does not want to wait.
            os._exit(128 + number)
        self._stop.set()


# Event.wait is not interrupted by signals on every platform.
_SIGNAL_INTERVAL_S = 0.2
_STOP_TIMEOUT_S = 5.0


def load_handlers(settings: Settings) -> loader.Loaded:
    """Load the configured folders and log what is wrong. Raises LoadError under `strict`."""
    loaded = loader.load(settings.folders, ALIASES)
    for problem in loaded.problems:
        log.error("not loaded", problem=str(problem), traceback=problem.traceback or None)
    if loaded.problems and settings.strict:
        raise LoadError(f"{len(loaded.problems)} problems with handlers, and strict is on")
    return loaded


def engine_options(settings: Settings) -> EngineOptions:
    return EngineOptions(
        methods=Dispatcher.METHODS,
        max_message_bytes=settings.max_message_bytes,
        min_threads=min(_MIN_THREADS, settings.max_threads),
        max_threads=settings.max_threads,
        max_concurrent_streams=_MAX_CONCURRENT_STREAMS,
        max_metadata_bytes=_MAX_METADATA_BYTES,
    )


def service_options(settings: Settings) -> ServiceOptions:
    retry_after_s = settings.failure_retry_after_s
    return ServiceOptions(
        timeout_s=settings.timeout_s,
        concurrency=settings.concurrency,
        async_concurrency=settings.async_concurrency,
        queue_size=settings.queue_size,
        failure_status=settings.failure_status,
        failure_headers=() if retry_after_s is None else (("Retry-After", str(retry_after_s)),),
    )


def _listen(engine: Engine, address: str) -> str:
    if address.startswith("unix:"):
        _clear_socket(Path(address.removeprefix("unix:")))
    return engine.listen(address)


def _clear_socket(path: Path) -> None:
    """Remove a socket that nobody listens on any more; gRPC would replace one that is in use, too."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise ListenError(f"cannot listen on unix:{path}: it is there, and no socket")
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise ListenError(f"cannot listen on unix:{path}: no such folder") from None
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise ListenError(f"cannot listen on unix:{path}: Address already in use")


def _remove_sockets(addresses: list[str]) -> None:
    for address in addresses:
        if address.startswith("unix:"):
            Path(address.removeprefix("unix:")).unlink(missing_ok=True)
