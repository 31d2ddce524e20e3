"""`coprocess kong serve`: the plugin server, as kong.conf's start_cmd names it."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coprocess.cli.ending import bound_exit
from coprocess.cli.kong.plugins import (
    HANDLERS_NAME,
    PREFIX,
    Folder,
    Handlers,
    Name,
    PluginFile,
    PluginFiles,
    dump_plugins,
    expect_handlers_alone,
    plugin_files,
    read_handlers,
    read_plugins,
    told_name,
)
from coprocess.cli.options import Config, worker_socket
from coprocess.errors import ConfigError
from coprocess.gateways.kong.kept import DEFAULT_KEEP_S
from coprocess.gateways.kong.overdue import MOST_TIMEOUT_S
from coprocess.gateways.kong.plugin import PluginOptions
from coprocess.gateways.kong.plugin_file import known_name
from coprocess.gateways.kong.registration import expect_files, handlers_server, plugin_server
from coprocess.gateways.kong.sharing import Share
from coprocess.process import forks
from coprocess.process.config import Settings
from coprocess.process.log_writer import open_standard_streams
from coprocess.process.redaction import redact_text
from coprocess.process.settings_loading import load_settings
from coprocess.runtime.registration import Registration
from coprocess.store import store

if TYPE_CHECKING:
    from coprocess.process.app import App

#: What kong-pdk calls its socket where nobody says otherwise.
_DEFAULT_SOCKET = "python_pluginserver.sock"
#: Calls of one phase that run at one time: a thread each.
_CONCURRENCY = 1024
_SHUTDOWN_S = 5.0
_LOOK_S = 0.5
_DESCRIPTORS = 65536
_FLUSH_S = 2.0


def serve(
    plugin: PluginFile = None,
    directory: Folder = None,
    handlers: Handlers = None,
    name: Name = None,
    prefix: Annotated[
        Path,
        typer.Option("-p", "--kong-prefix", "-kong-prefix", metavar="DIR", help="Where the socket goes."),
    ] = PREFIX,
    socket_name: Annotated[
        str | None,
        typer.Option("--socket-name", metavar="NAME", help="Default: NAME.socket, and NAME.sock beside it."),
    ] = None,
    verbose: Annotated[int, typer.Option("-v", "--verbose", count=True, help="Log more.")] = 0,
    no_lua_style: Annotated[
        bool,
        typer.Option("--no-lua-style", help="PDK calls give the value and raise, instead of (value, err)."),
    ] = False,
    gevent: Annotated[
        bool,
        typer.Option(
            "-g", "--gevent", help="As kong-pdk has it. Here a plugin that waits holds up nobody anyway."
        ),
    ] = False,
    multiprocessing: Annotated[
        bool, typer.Option("-m", "--multiprocessing", help="As kong-pdk has it: not needed here.")
    ] = False,
    listen_queue_size: Annotated[
        int, typer.Option("--listen-queue-size", metavar="N", help="As kong-pdk has it: 4096 here.")
    ] = 4096,
    dump: Annotated[
        bool,
        typer.Option(
            "--dump", "-dump", "--dump-all-plugins", "-dump-all-plugins", help="As coprocess kong dump."
        ),
    ] = False,
    on_error: Annotated[
        str | None,
        typer.Option(
            "--on-error", metavar="closed|open", help="What an exception, or an overrun, does to the request."
        ),
    ] = None,
    tell_kong: Annotated[
        bool,
        typer.Option(
            "--tell-kong",
            help="Failures, and what the plugin logs from warnings on, stand in Kong's log at their levels, "
            "too: a call more for each.",
        ),
    ] = False,
    outlive_parent: Annotated[
        bool, typer.Option("--outlive-parent", help="Go on when the process that started this is gone.")
    ] = False,
    timeout_s: Annotated[
        str | None, typer.Option("--timeout-s", metavar="SECONDS", help="Time limit of a phase.")
    ] = None,
    failure_status: Annotated[
        str | None,
        typer.Option("--failure-status", metavar="STATUS", help="What clients get when a phase fails [500]."),
    ] = None,
    admin: Annotated[
        str | None,
        typer.Option(
            "--admin", metavar="ADDRESS|off", help="Address of /healthz, /metrics and others [off]."
        ),
    ] = None,
    reload: Annotated[
        bool | None, typer.Option("--reload/--no-reload", help="Load the plugin again when it changes.")
    ] = None,
    max_threads: Annotated[
        str | None, typer.Option("--max-threads", metavar="N", help="Threads for sync phases.")
    ] = None,
    keep_s: Annotated[
        float,
        typer.Option(
            "--keep-s",
            metavar="SECONDS",
            min=0.1,
            help="Handlers: how long a request may take until its response phase, before it is ended.",
        ),
    ] = DEFAULT_KEEP_S,
    redis: Annotated[
        str | None,
        typer.Option("--redis", metavar="URL", help="A server for the store [an embedded one]."),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir", metavar="DIR", help="Where the embedded store keeps its data [in DIR of -p]."
        ),
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            "--workers", metavar="N", help="Processes that run plugins, for those that compute [1]."
        ),
    ] = None,
    log_format: Annotated[str | None, typer.Option("--log-format", metavar="auto|text|json")] = None,
    config: Config = None,
    # What the front process tells its workers.
    worker_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    worker_number: Annotated[int, typer.Option(hidden=True)] = 0,
    worker_least: Annotated[str | None, typer.Option(hidden=True)] = None,
    shared_folder: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve Kong's Python plugins, until Kong stops or reloads."""
    if gevent and multiprocessing:
        raise ConfigError("-g and -m go not together. Expected: one of them, or none")
    if handlers and on_error:
        raise ConfigError(
            "--on-error goes with plugins; each handler says its own: @Pre(on_error=…). Expected: one of them"
        )
    if on_error not in (None, "open", "closed"):
        raise ConfigError(f"--on-error {on_error!r}. Expected: open or closed")
    if handlers and tell_kong:
        raise ConfigError("--tell-kong goes with plugins, not with --handlers. Expected: one of them")
    expect_handlers_alone(plugin, directory, handlers)
    files = PluginFiles([]) if handlers else plugin_files(plugin, directory)
    paths = files.paths
    options = PluginOptions(
        name=name,
        of_folder=files.of_folder,
        lua_style=not no_lua_style,
        on_error=on_error,
        tells_kong=tell_kong,
        redact=redact_text,
    )
    if dump:
        dump_plugins(lambda: [read_handlers(handlers, name)] if handlers else read_plugins(files, options))
        return
    open_standard_streams()
    # Before the prefix: who names a wrong file is told of that, wherever Kong is.
    expect_files(paths)
    if not prefix.is_dir():
        raise ConfigError(f"-p {prefix}: no such folder. Expected: Kong's prefix, where the socket goes")
    if socket_name not in (None, _DEFAULT_SOCKET):
        names = [str(socket_name)]
    elif directory is not None:
        names = [_DEFAULT_SOCKET]
    else:
        served = name or (HANDLERS_NAME if handlers else known_name(paths[0]))
        if served is None:
            # A worker listens nowhere.
            served = paths[0].stem if worker_fd is not None else told_name(paths[0])
        names = [f"{served}.socket", f"{served}.sock"]
    sockets = [(prefix / each).absolute() for each in names]
    flags: dict[str, Any] = {
        "listen": [f"unix:{path}" for path in sockets],
        "handlers": handlers or [path.resolve().parent for path in paths[:1]],
        "timeout_s": timeout_s,
        "failure_status": failure_status,
        "admin": admin or "off",
        "reload": reload,
        "max_threads": max_threads,
        "concurrency": _CONCURRENCY,
        # Kong waits for no end, and its events whose steps do not come have none of their own.
        "shutdown_timeout_s": _SHUTDOWN_S,
        "workers": workers,
        "redis": redis,
        "data_dir": data_dir,
        "log_format": log_format,
        "log_level": "debug" if verbose else None,
    }
    settings = load_settings(flags, config)
    if settings.timeout_s > MOST_TIMEOUT_S:
        raise ConfigError(
            f"timeout_s is {settings.timeout_s:g}. Expected: {MOST_TIMEOUT_S:g} at most: Kong lets a request "
            "by for which it has waited 60 s"
        )
    if "data_dir" not in settings.model_fields_set:
        # Kong starts it in a folder that may be nobody's to write to.
        settings = settings.model_copy(update={"data_dir": prefix.absolute() / settings.data_dir})
    share = None if shared_folder is None else Share(shared_folder, worker_number, settings.workers)
    if handlers:
        served = name or HANDLERS_NAME
        gateway = handlers_server(
            handlers,
            served,
            share=share,
            limits_store=store.library_url,
            keep_s=keep_s,
        )
    else:
        # One of several workers tells what is left out.
        left_out = files.left_out if worker_number == 0 else []
        gateway = plugin_server(paths, options, share=share, left_out=left_out)
    worker = None if worker_fd is None else worker_number
    _run(
        settings,
        lambda: _app(settings, gateway, worker_fd, worker_number, worker_least),
        worker=worker,
        outlive=outlive_parent,
    )


def _app(
    settings: Settings,
    gateway: Registration,
    worker_fd: int | None,
    worker_number: int,
    worker_least: str | None,
) -> App:
    if worker_fd is not None:
        from coprocess.process.app import App
        from coprocess.process.least import Least
        from coprocess.process.options import engine_options
        from coprocess.transport.pipe import PipeEngine

        connected = worker_socket(worker_fd)
        forks.keep_descriptor_from_children(worker_fd)
        pipe = PipeEngine(connected, (), engine_options(settings))
        least = Least.of(worker_least)
        return App(settings, pipe, least=least, gateway=gateway, quiet=worker_number > 0)
    if settings.workers > 1:
        from coprocess.process.front_app import FrontApp

        return FrontApp(settings, gateway=gateway)
    from coprocess.process.app import App

    return App(settings, gateway=gateway)


def _run(settings: Settings, make: Callable[[], App], *, worker: int | None, outlive: bool) -> None:
    from coprocess.process import logs
    from coprocess.process.front_folder import clearing_up_for_front

    logs.configure(settings.log_format, settings.log_level, in_background=True, worker=worker)
    _allow_connections()
    status = 1
    try:
        app = make()
        if not outlive:
            _follow_parent(app)
        with contextlib.nullcontext() if worker is None else clearing_up_for_front(settings.admin):
            app.run()
        status = 0
    finally:
        logs.flush(_FLUSH_S)
        bound_exit(status)


def _allow_connections() -> None:
    """Let it have as many as the system allows: Kong keeps some hundreds open for each of its workers."""
    least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if most == resource.RLIM_INFINITY else min(most, _DESCRIPTORS)
    if least != resource.RLIM_INFINITY and least < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _follow_parent(app: Any) -> None:
    """Stop when the process that started this is gone, as a worker of Kong that was killed."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            threading.Event().wait(_LOOK_S)
        app.request_stop()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
