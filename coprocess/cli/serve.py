"""`coprocess serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from coprocess.cli.options import Config, Handlers, describe
from coprocess.config import load_settings


def _option(flag: str, **options: Any) -> Any:
    return typer.Option(
        flag, help=describe(flag.partition("/")[0].removeprefix("--").replace("-", "_")), **options
    )


def serve(
    listen: Annotated[list[str] | None, _option("--listen", metavar="ADDRESS")] = None,
    handlers: Handlers = None,
    strict: Annotated[bool | None, _option("--strict/--no-strict")] = None,
    engine: Annotated[str | None, _option("--engine", metavar="auto|native|grpcio")] = None,
    redis: Annotated[str | None, _option("--redis", metavar="URL")] = None,
    store_timeout_s: Annotated[str | None, _option("--store-timeout-s", metavar="SECONDS")] = None,
    data_dir: Annotated[Path | None, _option("--data-dir", metavar="DIR")] = None,
    timeout_s: Annotated[str | None, _option("--timeout-s", metavar="SECONDS")] = None,
    concurrency: Annotated[str | None, _option("--concurrency", metavar="N")] = None,
    async_concurrency: Annotated[str | None, _option("--async-concurrency", metavar="N")] = None,
    queue_size: Annotated[str | None, _option("--queue-size", metavar="N")] = None,
    max_threads: Annotated[str | None, _option("--max-threads", metavar="N")] = None,
    max_message_bytes: Annotated[str | None, _option("--max-message-bytes", metavar="N")] = None,
    failure_status: Annotated[str | None, _option("--failure-status", metavar="STATUS")] = None,
    failure_retry_after_s: Annotated[
        str | None, _option("--failure-retry-after-s", metavar="SECONDS")
    ] = None,
    full_reply: Annotated[bool | None, _option("--full-reply/--no-full-reply")] = None,
    shutdown_timeout_s: Annotated[str | None, _option("--shutdown-timeout-s", metavar="SECONDS")] = None,
    log_format: Annotated[str | None, _option("--log-format", metavar="auto|text|json")] = None,
    log_level: Annotated[str | None, _option("--log-level", metavar="debug|info|warning|error")] = None,
    config: Config = None,
) -> None:
    """Load the handlers and serve them to gateways, until Ctrl-C or SIGTERM."""
    # Numbers are taken as text: the settings check them, with one kind of error for every source.
    flags = {name: value for name, value in locals().items() if name != "config"}
    settings = load_settings(flags, config)

    from coprocess.server import logs

    logs.configure(settings.log_format, settings.log_level)

    from coprocess.server.app import App

    App(settings).run()
