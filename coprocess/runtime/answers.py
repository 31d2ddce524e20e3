"""Answers that are given in the upstream's place, where the gateway words none itself."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from coprocess.errors import Status


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response. `is_rejection`: the caller was refused, which is an event."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    is_rejection: bool = False


def error_answer(
    status: int, message: str, headers: Iterable[tuple[str, str]] = (), *, is_rejection: bool = False
) -> Answer:
    """An error as gateways word theirs."""
    body = json.dumps({"error": message}, indent=4).encode()
    given = [(name, value) for name, value in headers if name.lower() != "content-type"]
    return Answer(status, [("Content-Type", "application/json"), *given], body, is_rejection)


def failure_answer(status: Status) -> Answer:
    """What a client gets where a handler's call failed closed. It says nothing of why: the log does."""
    if status in (Status.RESOURCE_EXHAUSTED, Status.UNAVAILABLE):
        return error_answer(503, "Service unavailable")
    return error_answer(500, "Middleware error")
