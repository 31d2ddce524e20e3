"""Plugin servers for the simulated Kong: the same as `coprocess kong serve` runs, in this process."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import structlog

from coprocess.desk.hook_runs import HookRun, HookWatch, Run
from coprocess.desk.kong.simulator.dump import PluginInfo, plugin_info
from coprocess.errors import LoadError
from coprocess.gateways.kong.native import NativePlugin
from coprocess.gateways.kong.plugin import Plugin, PluginOptions
from coprocess.gateways.kong.registration import (
    handlers_server,
    load_handlers,
    load_plugins,
    plugin_server,
)
from coprocess.loading.hooks import Hook, HookTable
from coprocess.runtime.registration import GatewayOptions
from coprocess.runtime.service import Service
from coprocess.runtime.service_options import ServiceOptions
from coprocess.transport import listeners
from coprocess.transport.engine import EngineOptions

_LARGEST_BYTES = 64 * 2**20
#: How long a trial's plugin may take to end after its answer, and its server to stop.
_STOP_S = 1.0
#: How long a trial waits for the handlers of its events.
_EVENTS_S = 5.0


@dataclass(slots=True, eq=False)
class PhaseRun(Run):
    """One run of a phase's method, or of a plugin's `__init__` (phase `start`).

    Kong may have its answer, and the trial its end, before the method has ended.
    """

    plugin: str
    phase: str
    #: What it raised.
    error: BaseException | None = None
    #: The native handlers that it ran, those of its events among them.
    handlers: list[HookRun] = field(default_factory=list)


class PluginServers:
    """One server a plugin file, as Kong has them. `runs` are what ran, in the order in which it began."""

    def __init__(self) -> None:
        self.infos: dict[str, PluginInfo] = {}
        self.sockets: dict[str, str] = {}
        self.paths: dict[str, Path] = {}
        self.modules: dict[str, ModuleType] = {}
        self.runs: list[PhaseRun] = []
        #: Follows native handlers, which a plugin of theirs runs within its phases.
        self.watch = HookWatch()
        #: What runs these.
        self.services: list[Service] = []

    def wait_for_events(self) -> None:
        """Until the events have been handled that were triggered, or for a bounded time."""
        until_s = time.monotonic() + _EVENTS_S
        for service in self.services:
            service.events.wait(until_s)

    def observed(self, hook: Hook) -> Hook:
        """`hook`, with its runs kept."""
        function, name, phase = hook.function, hook.name, hook.type.name
        if hook.is_async:

            async def run_async(*args: Any) -> Any:
                with self._running(name, phase):
                    return await function(*args)

            return replace(hook, function=run_async)

        def run(*args: Any) -> Any:
            with self._running(name, phase):
                return function(*args)

        return replace(hook, function=run)

    @contextmanager
    def _running(self, plugin: str, phase: str) -> Iterator[None]:
        run = PhaseRun(plugin, phase)
        self.runs.append(run)
        self.watch.runs = run.handlers
        try:
            with run.measured():
                yield
        except Exception as error:
            run.error = error
            raise


@contextmanager
def plugin_servers(
    paths: Sequence[Path], *, lua_style: bool = True, timeout_s: float = 30.0
) -> Iterator[PluginServers]:
    """Serve the plugins in `paths` within: a file each, or a folder of native handlers.

    Raises LoadError where one does not load.
    """
    servers = PluginServers()
    with ExitStack() as stack:
        stack.enter_context(_quiet_log())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coprocess-kong-")))
        for index, path in enumerate(paths):
            stack.enter_context(_serving(servers, path, folder / f"{index}.sock", lua_style, timeout_s))
        yield servers


def _drop(*_: object) -> Any:
    raise structlog.DropEvent


@contextmanager
def _quiet_log() -> Iterator[None]:
    """What the server would log is in `runs`, and shown from there."""
    before = structlog.get_config()
    structlog.configure(processors=[_drop])
    try:
        yield
    finally:
        structlog.configure(**before)


@contextmanager
def _serving(
    servers: PluginServers, path: Path, socket_path: Path, lua_style: bool, timeout_s: float
) -> Iterator[None]:
    options = PluginOptions(lua_style=lua_style)
    plugins: list[Plugin]
    if path.is_dir():
        # Native handlers: one plugin, whose configuration names the chain.
        loaded, native = load_handlers([path], path.name)
        plugins = [native] if native is not None else []
        if native is not None:
            servers.services += _followed(native, servers.watch)
        registration = handlers_server([path], path.name)
    else:
        loaded, plugins = load_plugins([path], options)
        registration = plugin_server([path], options)
    with ExitStack() as stack:
        stack.callback(loaded.forget)
        if loaded.problems:
            texts = [f"{problem.traceback}{problem}" for problem in loaded.problems]
            raise LoadError("\n".join(texts))
        for plugin in plugins:
            if plugin.name in servers.infos:
                raise LoadError(f"{path}: a second plugin named {plugin.name!r}. Expected: a name each")
            servers.infos[plugin.name] = plugin_info([plugin.info()])
            servers.sockets[plugin.name] = str(socket_path)
            servers.paths[plugin.name] = path
            if module := sys.modules.get(plugin.plugin_class.__module__):
                servers.modules[plugin.name] = module
        loaded.serve()
        table = HookTable(servers.observed(hook) for hook in loaded.table)
        service = Service(
            registration.make(table, GatewayOptions()), ServiceOptions(timeout_s, owns_process=False)
        )
        make_engine: Callable[[EngineOptions], Any] | None = registration.engine
        assert make_engine is not None  # noqa: S101 - a plugin server has an engine of its own
        engine = make_engine(
            EngineOptions(
                max_message_bytes=_LARGEST_BYTES,
                min_threads=1,
                max_threads=64,
                max_concurrent_streams=1,
                max_metadata_bytes=1,
            )
        )
        service.replace_thread = engine.replace_thread
        listeners.listen(f"unix:{socket_path}", engine.listen, listeners.SocketAccess())
        service.start()
        engine.start(service.methods)
        stack.callback(service.stop, _STOP_S)
        stack.callback(engine.stop)
        # What has been answered may still log its failure: that is quiet as long as this is not left.
        stack.callback(service.drain, _STOP_S)
        yield


def _followed(plugin: Plugin, watch: HookWatch) -> Iterator[Service]:
    """What runs the native handlers of a plugin of them; it tells `watch` of each."""
    made = plugin.plugin_class
    if issubclass(made, NativePlugin) and made.adapter.service is not None:
        made.adapter.service.use_tracing(watch)
        yield made.adapter.service
