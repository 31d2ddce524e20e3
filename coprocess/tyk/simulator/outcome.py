"""The ways in which a request ends before the upstream has answered it."""

from __future__ import annotations

from coprocess.tyk.simulator.headers import GoHeader


class Failed(Exception):
    """The gateway answers with an error of its own making."""

    def __init__(self, status: int, message: str, headers: GoHeader | None = None) -> None:
        super().__init__(f"{status} {message}")
        self.status = status
        self.message = message
        self.headers = headers or GoHeader()


class Answered(Exception):
    """A hook's return_overrides are the answer."""

    def __init__(self, status: int, headers: GoHeader, body: bytes) -> None:
        super().__init__(str(status))
        self.status = status
        self.headers = headers
        self.body = body


class Dropped(Exception):
    """The gateway's goroutine panics: its client sees the connection end. The text names the fault."""
