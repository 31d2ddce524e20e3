"""`coprocess serve`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from coprocess.cli.ending import bound_exit
from coprocess.cli.options import Config, Handlers, describe, worker_socket
from coprocess.process.config import Settings
from coprocess.process.log_writer import open_standard_streams
from coprocess.process.settings_loading import load_settings


def _option(flag: str, **options: Any) -> Any:
    return typer.Option(
        flag, help=describe(flag.partition("/")[0].removeprefix("--").replace("-", "_")), **options
    )


def serve(
    listen: Annotated[list[str] | None, _option("--listen", metavar="ADDRESS")] = None,
    envoy: Annotated[bool | None, _option("--envoy/--no-envoy")] = None,
    tyk: Annotated[bool | None, _option("--tyk/--no-tyk")] = None,
    web: Annotated[str | None, _option("--web", metavar="MODULE:APP")] = None,
    web_interface: Annotated[str | None, _option("--web-interface", metavar="auto|asgi|wsgi")] = None,
    web_chain: Annotated[str | None, _option("--web-chain", metavar="NAME")] = None,
    web_api_id: Annotated[str | None, _option("--web-api-id", metavar="ID")] = None,
    web_org_id: Annotated[str | None, _option("--web-org-id", metavar="ID")] = None,
    handlers: Handlers = None,
    strict: Annotated[bool | None, _option("--strict/--no-strict")] = None,
    engine: Annotated[str | None, _option("--engine", metavar="auto|http2|grpcio")] = None,
    redis: Annotated[str | None, _option("--redis", metavar="URL")] = None,
    store_timeout_s: Annotated[str | None, _option("--store-timeout-s", metavar="SECONDS")] = None,
    store_required: Annotated[bool | None, _option("--store-required/--no-store-required")] = None,
    data_dir: Annotated[Path | None, _option("--data-dir", metavar="DIR")] = None,
    store_fsync: Annotated[str | None, _option("--store-fsync", metavar="everysec|always")] = None,
    reload: Annotated[bool | None, _option("--reload/--no-reload")] = None,
    resource_timeout_s: Annotated[str | None, _option("--resource-timeout-s", metavar="SECONDS")] = None,
    settle_s: Annotated[str | None, _option("--settle-s", metavar="SECONDS")] = None,
    reflection: Annotated[bool | None, _option("--reflection/--no-reflection")] = None,
    admin: Annotated[str | None, _option("--admin", metavar="ADDRESS|off")] = None,
    admin_hosts: Annotated[list[str] | None, _option("--admin-hosts", metavar="NAME")] = None,
    events_listen: Annotated[str | None, _option("--events-listen", metavar="ADDRESS|off")] = None,
    events_secret_file: Annotated[Path | None, _option("--events-secret-file", metavar="FILE")] = None,
    events_max_bytes: Annotated[str | None, _option("--events-max-bytes", metavar="N")] = None,
    request_state: Annotated[bool | None, _option("--request-state/--no-request-state")] = None,
    request_state_s: Annotated[str | None, _option("--request-state-s", metavar="SECONDS")] = None,
    request_state_secret_file: Annotated[
        Path | None, _option("--request-state-secret-file", metavar="FILE")
    ] = None,
    tls_cert: Annotated[Path | None, _option("--tls-cert", metavar="FILE")] = None,
    tls_key: Annotated[Path | None, _option("--tls-key", metavar="FILE")] = None,
    tls_client_ca: Annotated[Path | None, _option("--tls-client-ca", metavar="FILE")] = None,
    insecure_public: Annotated[bool | None, _option("--insecure-public/--no-insecure-public")] = None,
    unix_socket_mode: Annotated[str | None, _option("--unix-socket-mode", metavar="MODE")] = None,
    unix_socket_owner: Annotated[str | None, _option("--unix-socket-owner", metavar="USER:GROUP")] = None,
    workers: Annotated[str | None, _option("--workers", metavar="N")] = None,
    worker_listen: Annotated[str | None, _option("--worker-listen", metavar="front|own")] = None,
    worker_silence_s: Annotated[str | None, _option("--worker-silence-s", metavar="SECONDS")] = None,
    timeout_s: Annotated[str | None, _option("--timeout-s", metavar="SECONDS")] = None,
    concurrency: Annotated[str | None, _option("--concurrency", metavar="N")] = None,
    async_concurrency: Annotated[str | None, _option("--async-concurrency", metavar="N")] = None,
    queue_size: Annotated[str | None, _option("--queue-size", metavar="N")] = None,
    max_threads: Annotated[str | None, _option("--max-threads", metavar="N")] = None,
    max_message_bytes: Annotated[str | None, _option("--max-message-bytes", metavar="N")] = None,
    max_headers: Annotated[str | None, _option("--max-headers", metavar="N")] = None,
    failure_status: Annotated[str | None, _option("--failure-status", metavar="STATUS")] = None,
    failure_retry_after_s: Annotated[
        str | None, _option("--failure-retry-after-s", metavar="SECONDS")
    ] = None,
    full_reply: Annotated[bool | None, _option("--full-reply/--no-full-reply")] = None,
    drain_s: Annotated[str | None, _option("--drain-s", metavar="SECONDS")] = None,
    shutdown_timeout_s: Annotated[str | None, _option("--shutdown-timeout-s", metavar="SECONDS")] = None,
    traces: Annotated[str | None, _option("--traces", metavar="off|otlp")] = None,
    traces_sample: Annotated[str | None, _option("--traces-sample", metavar="0..1")] = None,
    log_format: Annotated[str | None, _option("--log-format", metavar="auto|text|json")] = None,
    log_level: Annotated[str | None, _option("--log-level", metavar="debug|info|warning|error")] = None,
    config: Config = None,
    # What the front process tells its workers.
    worker_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    worker_number: Annotated[int, typer.Option(hidden=True)] = 0,
    worker_address: Annotated[str | None, typer.Option(hidden=True)] = None,
    worker_least: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Load the handlers and serve them to gateways, until Ctrl-C or SIGTERM."""
    open_standard_streams()
    # Numbers are taken as text: the settings check them, with one kind of error for every source.
    flags = {name: value for name, value in locals().items() if name not in _NO_SETTINGS}
    settings = load_settings(flags, config)

    # Handler code may change the working folder later.
    base = Path.cwd()

    def reread() -> Settings:
        return load_settings(flags, config, base)

    from coprocess.process import logs

    worker = None if worker_fd is None else worker_number
    logs.configure(settings.log_format, settings.log_level, in_background=True, worker=worker)
    status = 1
    try:
        _run(settings, config, reread, worker_fd, worker_number, worker_address, worker_least)
        status = 0
    finally:
        logs.flush(_FLUSH_S)
        bound_exit(status)


def _run(
    settings: Settings,
    config: Path | None,
    reread: Callable[[], Settings],
    worker_fd: int | None,
    worker_number: int,
    worker_address: str | None,
    worker_least: str | None,
) -> None:
    from coprocess.process.gateways import served

    gateway = served(settings)
    if worker_fd is not None:
        from coprocess.process import forks
        from coprocess.process.app import App
        from coprocess.process.front_folder import clearing_up_for_front
        from coprocess.process.least import Least
        from coprocess.process.options import engine_options
        from coprocess.transport.pipe import PipeEngine

        connected = worker_socket(worker_fd)
        forks.keep_descriptor_from_children(worker_fd)
        pipe = PipeEngine(connected, gateway.methods, engine_options(settings))
        app = App(
            settings,
            pipe,
            address=worker_address,
            least=Least.of(worker_least),
            gateway=gateway,
            config_file=config,
            reread=reread,
            quiet=worker_number > 0,
        )
        with clearing_up_for_front(settings.admin):
            app.run()
    elif settings.workers > 1:
        from coprocess.process.front_app import FrontApp

        FrontApp(settings, gateway=gateway, config_file=config).run()
    else:
        from coprocess.process.app import App

        App(settings, gateway=gateway, config_file=config, reread=reread).run()


# For a log that somebody reads.
_FLUSH_S = 2.0
_NO_SETTINGS = ("config", "worker_fd", "worker_number", "worker_address", "worker_least")
