"""The service from start to stop: listens, opens the store, loads handlers, serves, drains, ends."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from coprocess import early_signals
from coprocess.errors import ConfigError, LoadError
from coprocess.loading import foreign_patches, loader
from coprocess.loading.hooks import HookTable
from coprocess.loading.loaded import Loaded
from coprocess.loading.log_state import LogState
from coprocess.process import extras, forks, garbage, logs, redaction
from coprocess.process.allocator import keep_freed_memory
from coprocess.process.config import OFF, Settings
from coprocess.process.file_watch import FileWatch
from coprocess.process.front_folder import folder_of_worker, log_lock
from coprocess.process.gateways import DEFAULT
from coprocess.process.least import Least
from coprocess.process.listening import Listening
from coprocess.process.load_watch import LoadWatch
from coprocess.process.options import engine_options, gateway_options, reflection_methods, service_options
from coprocess.process.places import Places
from coprocess.process.reload import Outcome, Reloader, Rollback, shares
from coprocess.process.reload_requests import ReloadRequests
from coprocess.process.restart_settings import RestartSettings
from coprocess.process.settled_files import SettledLoad
from coprocess.process.store_watch import StoreWatch
from coprocess.process.systemd import take_service_manager, take_sockets
from coprocess.runtime.registration import Registration
from coprocess.runtime.service import Service
from coprocess.store import Observer, store
from coprocess.text import counted
from coprocess.transport.engine import Engine, Handler, Methods
from coprocess.transport.engines import make_engine
from coprocess.transport.health import Health
from coprocess.transport.held_calls import Held

if TYPE_CHECKING:
    from coprocess.process.front import Front
    from coprocess.transport.pipe import PipeEngine

log = structlog.get_logger("coprocess")


class App:
    """One service in this process. `run` returns when a signal, or `request_stop`, has ended it."""

    def __init__(
        self,
        settings: Settings,
        worker: PipeEngine | None = None,
        *,
        address: str | None = None,
        least: Least | None = None,
        gateway: Registration = DEFAULT,
        config_file: Path | None = None,
        reread: Callable[[], Settings] | None = None,
        quiet: bool = False,
    ) -> None:
        """Raises ConfigError for what the gateway cannot do.

        `worker` is the engine where this is a worker process, or its way to the front where it takes calls
        at an `address` of its own; `least`: it does not start where its handlers give less; `quiet`: another
        worker tells of the hooks in the log, and takes the webhooks.

        `config_file` is read for its routes, also upon reload; found as by `load_settings`. `reread` gives
        the settings as they would be at a start now.
        """
        if settings.events_listen != OFF and not gateway.takes_webhooks:
            raise ConfigError(f"events_listen: {gateway.home.name} sends no webhooks. Expected: off")
        self.settings = settings
        self.gateway = gateway
        self._strict = settings.strict or gateway.strict
        self._places = Places(settings, config_file)
        self._worker = worker
        self._address = address
        self._least = least
        listen = settings.listen if worker is None else [] if address is None else [address]
        self._listening = Listening(settings, listen, take_sockets(), is_worker=worker is not None)
        self._quiet = quiet
        self._store_watch = StoreWatch(store, quiet=quiet)
        self._restart = RestartSettings(settings, reread or (lambda: settings))
        # The front tells when the whole service listens, serves and stops.
        self._tell = log.info if worker is None else log.debug
        self._manager = take_service_manager()
        self._held = Held(gateway.methods, gateway.bidi_methods)
        self.health = Health(gateway.services)
        #: What is served from the start, whatever is loaded.
        self._always = self.health.methods | reflection_methods(settings, gateway)
        self._traced: Callable[[Handler], Handler] = lambda handler: handler
        # What signal handlers do takes no lock: the thread they interrupt may hold it. So no Event here.
        self._stop = False
        #: Whether calls are let in.
        self._is_open = False
        self._signals = 0
        self._engine: Engine | None = None
        self.requests = ReloadRequests()

    def run(self, on_ready: Callable[[list[str]], None] | None = None) -> None:
        """Serve until told to stop. `on_ready` gets the addresses.

        Raises CoprocessError where it cannot start.
        """
        settings = self.settings
        keep_freed_memory()
        if settings.redis is not None:
            redaction.add_url_secrets(settings.redis)
        if self.gateway.engine is not None:
            engine, reason = self.gateway.engine(engine_options(settings)), "the gateway's own"
        elif self._worker is not None and self._address is None:
            engine, reason = self._worker, "the front process passes calls on"
        else:
            engine, reason = make_engine(settings.engine, engine_options(settings))
        made = self.gateway.make(HookTable(), gateway_options(settings, self._places.chains))
        service = Service(made, service_options(settings))
        made.use(service)
        self._engine = engine
        load = self.gateway.load or (lambda: self._places.load(self.gateway.home))

        def load_what_fits() -> Loaded:
            loaded = load()
            try:
                made.check_table(loaded.table)
            except ConfigError as error:
                # What is missing may be in a file that was not loaded.
                raise ConfigError("; ".join(map(str, (error, *loaded.problems)))) from None
            return loaded

        service.replace_thread = engine.replace_thread
        reloader = Reloader(
            SettledLoad(
                load_what_fits,
                self._places.all_folders,
                settings.settle_s,
                lambda: self._stop,
            ),
            service,
            strict=self._strict,
            least=self._least,
            # One of several workers tells it.
            warn=tuple if self._quiet else self._restart.warnings,
            resource_timeout_s=settings.resource_timeout_s,
            spawn=made.spawn,
        )
        service.async_calls.on_given_up = lambda: self._after_lost_loop(reloader)
        with ExitStack() as at_end:
            self._handle_signals(at_end)
            if self._worker is not None:
                logs.take_turns(log_lock(folder_of_worker(settings.admin)))
                self._worker.on_end(self.request_stop)
                if engine is not self._worker:
                    # It tells of this process, and calls come by the other.
                    self._worker.start(Methods())
                    at_end.callback(self._worker.stop)
            if settings.traces != OFF:
                self._start_tracing(service, at_end)
            # With what tracing has set up.
            log_state = LogState()
            addresses = self._listening.for_gateway(engine, at_end)
            self._start_admin(service, engine, reloader, at_end)
            start_events = self._listen_for_webhooks(service, at_end)
            # Health answers from here on: not serving.
            failed = Methods(failed=service.streaming.failed_replies)
            engine.start(self._with_traces(self._held.methods) | failed | self._always)
            at_end.callback(engine.stop)
            at_end.callback(self.health.close)
            store.configure(
                settings.redis,
                timeout_s=settings.store_timeout_s,
                data_dir=settings.data_dir,
                fsync=settings.store_fsync,
                watched=True,
            )
            at_end.callback(store.close)
            if settings.store_required:
                self._store_watch.require()
            self._store_watch.start()
            at_end.callback(self._store_watch.stop)
            at_end.enter_context(logs.capturing_prints())
            service.start()
            at_end.callback(service.stop, STOP_TIMEOUT_S)
            at_end.callback(reloader.close)
            if settings.reload and self._worker is None:  # A worker is told by the front.
                watch = self._watch_files(lambda: self._ask_reload("file change"))
                at_end.callback(watch.stop)
            watch_load = LoadWatch(
                lambda: self._stop, self.request_stop, lambda: self._end_while_loading(service, at_end)
            )
            if self._stop:
                self._tell("stopped")
                return
            garbage.keep_steps_short()
            with watch_load.watching():
                is_good = reloader.first()
            if not is_good and (self._least is not None or not settings.reload):
                why = "strict is on" if self._strict else f"other workers serve {self._others_serve()}"
                raise LoadError(f"{counted(len(reloader.problems), 'problem')} with handlers, and {why}")
            self._tell(
                "listening", listen=addresses, engine=engine.name, because=reason, store=store.describe()
            )
            if self._strict and reloader.problems:
                self._held.refuse()
            else:
                self._open(service, reloader)
            start_events()
            self._manager.ready(_status(reloader))
            if on_ready is not None:
                on_ready(addresses)
            if self._worker is not None:
                self._worker.longest_limit_s = service.longest_limit_s
                self._worker.announce_ready(*_served(reloader), addresses)
            self._serve(service, reloader, log_state, watch_load)
            self._drain(service)
        self._tell("stopped")

    def _others_serve(self) -> str:
        return "" if self._least is None else counted(self._least.hooks, "hook")

    def request_stop(self) -> None:
        self.health.stopping = True
        self._stop = True
        self.requests.wake()

    def _after_lost_loop(self, reloader: Reloader) -> None:
        """Async resources lived on the loop that is lost: they open anew, on the next."""
        if any(each.resources.has_async for each in reloader.loaded.lifecycles):
            self._ask_reload("the event loop was given up, and resources with it")

    def _ask_reload(self, reason: str) -> None:
        self.requests.reload(reason)

    def _start_tracing(self, service: Service, at_end: ExitStack) -> None:
        extras.need_tracing()
        # Only here: the libraries take memory, and time to import.
        from coprocess.process.trace_export import TraceExport
        from coprocess.process.tracing import CallTracing, current_ids

        sample = self.settings.traces_sample
        export = TraceExport(sample)
        at_end.callback(export.close, _LAST_EXPORT_S)
        tracing = CallTracing(export.tracer, sample)
        service.use_tracing(tracing)
        # A call's span begins when it comes, also where it is held first.
        self._traced = tracing.traced
        logs.add_trace_ids(current_ids)
        at_end.callback(logs.add_trace_ids, None)
        _observe_store(tracing.observe_store, at_end)

    def _with_traces(self, methods: Methods) -> Methods:
        return replace(methods, unary={path: self._traced(each) for path, each in methods.unary.items()})

    def _watch_files(self, on_change: Callable[[], None]) -> FileWatch:
        watch = FileWatch(
            self._places.all_folders, self._places.config_file, on_change, self.settings.settle_s
        )
        watch.start()
        return watch

    def _start_admin(self, service: Service, engine: Engine, reloader: Reloader, at_end: ExitStack) -> None:
        settings = self.settings
        if settings.admin == OFF:
            return
        # Only here: a service without it need not load the HTTP server.
        from coprocess.process.admin import AdminPages
        from coprocess.process.metrics import ServiceCollector, StoreCounts, make_registry

        counts = StoreCounts(self._store_watch)
        _observe_store(counts.observe, at_end)
        collector = ServiceCollector(service, engine, self.health, reloader, counts)
        registry = make_registry(collector)
        pages = AdminPages(
            self.health,
            reloader,
            registry,
            self.requests.reload,
            self.requests.roll_back,
            self._store_watch.page,
        )
        self._listening.for_admin(pages, at_end)

    def _listen_for_webhooks(self, service: Service, at_end: ExitStack) -> Callable[[], None]:
        """Gives what lets them in."""
        if self._quiet:
            return lambda: None
        return self._listening.for_webhooks(service, lambda: self._is_open, at_end)

    def _open(self, service: Service, reloader: Reloader) -> None:
        """Let calls in."""
        shown = () if self._quiet else reloader.loaded.table
        for hook in sorted(shown, key=lambda hook: (hook.version, hook.type, hook.name)):
            version = {"version": hook.version} if hook.version else {}
            log.info(
                "hook",
                type=hook.type.name,
                name=hook.name,
                style=hook.style,
                source=str(hook.source),
                **version,
            )
        if not len(reloader.loaded.table):
            folders = [str(folder) for folder in self._places.folders()]
            log.warning("no handlers are loaded, so this is not ready", folders=folders)
        self._is_open = True
        methods = service.methods
        if self._engine is not None:
            self._engine.begin()
            self._engine.use(self._with_traces(methods) | self._always)
        # Without traces, as a held call has its span since it came.
        self._held.pass_on(methods)
        # Without a hook, every call would fail: what can choose should send them elsewhere.
        self.health.set_serving(len(reloader.loaded.table) > 0)
        self._tell("serving", **shares(reloader.loaded.table))

    def _serve(
        self, service: Service, reloader: Reloader, log_state: LogState, watch_load: LoadWatch
    ) -> None:
        """Reload when asked to, until it is time to stop."""
        while not self._stop:
            # One load, or one rollback, serves all who asked for it before it began.
            for _, same in itertools.groupby(self.requests.take(TICK_S), lambda asked: asked.what):
                request, *others = same
                result: Outcome | Rollback
                self._manager.reloading()
                if request.reason:
                    with watch_load.watching():
                        result = outcome = reloader.reload(request.reason, force=request.force)
                    if outcome.succeeded and not self._is_open:
                        self._open(service, reloader)
                else:
                    result = reloader.roll_back(request.to)
                self._tell_health(reloader)
                self._manager.ready(_status(reloader))
                for each in (request, *others):
                    if each.future.set_running_or_notify_cancel():
                        each.future.set_result(result)
            reloader.sweep()
            # What handlers change while they run, and not while they load.
            told = [f"changes {what}, which is the service's: put back" for what in log_state.mend()]
            for note in (*told, *foreign_patches.take_refusals()):
                log.warning("handler code changes the process", note=note)

    def _tell_health(self, reloader: Reloader) -> None:
        """Health follows whether there are hooks."""
        serving = self._is_open and len(reloader.loaded.table) > 0
        if serving != self.health.serving:
            self.health.set_serving(serving)
        if self._worker is not None:
            self._worker.announce_ready(*_served(reloader))

    def _drain(self, service: Service | Front) -> None:
        self.health.set_serving(False)
        self._manager.stopping()
        settings = self.settings
        # A request around which handlers run is no call of the service while its app has it.
        others = 0 if self._engine is None else self._engine.in_flight
        self._tell("stopping", in_flight=max(service.in_flight, others), drain_s=settings.drain_s)
        # Load balancers see the health before they stop sending.
        until_s = time.monotonic() + max(settings.drain_s, self._tell_front_of_stop())
        while (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(left_s, TICK_S))
        # Clients go elsewhere; calls that come all the same are refused once it has told them.
        until_s = time.monotonic() + settings.shutdown_timeout_s
        if self._engine is not None and not self._engine.drain(settings.shutdown_timeout_s):
            log.warning("requests were still running", in_flight=self._engine.in_flight)
        if not service.drain(max(0.0, until_s - time.monotonic())):
            log.warning("calls were still running", in_flight=service.in_flight)
        for request in self.requests.take(0):
            request.future.cancel()

    def _tell_front_of_stop(self) -> float:
        """In a worker that is stopped alone: the front sends no more. How long what it has sent may take."""
        if self._worker is None or self._worker.is_left:
            return 0.0
        self._worker.announce_ready(0)
        return _FRONT_HEARS_S if self._address is None else 0.0

    def _end_while_loading(self, service: Service, at_end: ExitStack) -> None:
        """End the process from another thread, as the main thread hangs in a module's code."""
        limit_s = self.settings.shutdown_timeout_s + STOP_TIMEOUT_S
        timer = threading.Timer(limit_s + self.settings.drain_s, os._exit, (0,))
        timer.daemon = True
        timer.start()
        log.error(
            "stopping while handlers load: this module's code does not end",
            module=", ".join(map(str, loader.now_loading)),
        )
        if self._is_open:
            self._drain(service)
        # Signal handlers can be put back by the main thread alone: that one fails, and the rest is done.
        with suppress(Exception):
            at_end.pop_all().close()
        self._tell("stopped")
        os._exit(0)

    def _handle_signals(self, at_end: ExitStack) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handle_signal(number, self._on_stop_signal, at_end)
        self._handle_signal(signal.SIGHUP, lambda number, frame: self._ask_reload("SIGHUP"), at_end)

    @staticmethod
    def _handle_signal(number: int, handler: Callable[[int, object], None], at_end: ExitStack) -> None:
        before = signal.signal(number, handler)
        at_end.callback(signal.signal, number, before)
        of_python = early_signals.before.get(number, before)
        at_end.callback(forks.keep_signal_from_children(number, of_python))

    def _on_stop_signal(self, number: int, frame: object) -> None:
        self._signals += 1
        if self._signals > 1:
            # Somebody does not want to wait.
            logs.flush(_LAST_LOG_S)
            os._exit(128 + number)
        self.request_stop()


def _observe_store(observer: Observer, at_end: ExitStack) -> None:
    store.observers.append(observer)
    at_end.callback(store.observers.remove, observer)


# Waiting is not interrupted by signals on every platform.
TICK_S = 0.2
STOP_TIMEOUT_S = 5.0
#: It polls all the time. Where it is busy, this is many polls.
_FRONT_HEARS_S = 0.5
_LAST_EXPORT_S = 3.0
_LAST_LOG_S = 0.5


def _served(reloader: Reloader) -> tuple[int, int]:
    """How many hooks serve, and with how many problems, for the front."""
    return len(reloader.loaded.table), len(reloader.loaded.problems)


def _status(reloader: Reloader) -> str:
    """One line for people, of what is served."""
    last, hooks = reloader.last, len(reloader.loaded.table)
    if last is not None and not last.succeeded:
        return f"the last reload failed; {hooks} hooks of before it"
    status = f"{hooks} hooks, {counted(len(reloader.problems), 'problem')} with handlers"
    return status if reloader.rolled_back is None else f"rolled back ({reloader.rolled_back}): {status}"
