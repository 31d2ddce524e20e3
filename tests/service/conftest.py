"""What handlers wait for, and short logs."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What handlers of a test wait for; set at its end, too."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture(autouse=True)
def plain_logs() -> Iterator[None]:
    """As the service logs: structlog's own tracebacks take seconds where a handler recurses."""
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, renderer])
    yield
    structlog.reset_defaults()
