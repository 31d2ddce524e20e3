"""The ways in which a request ends before the upstream has answered it."""

from __future__ import annotations

from typing import Literal

from coprocess.desk.tyk.simulator.headers import GoHeader

#: Why the gateway answered with an error of its own making.
FailureReason = Literal[
    "call",  # the Dispatch failed
    "not-utf8",  # the Object could not be serialized, so that no hook was called
    "url",  # a hook left a URL that is none
    "override",  # a hook asked for it, by return_overrides
    "no-response",  # a Response hook's reply has none
    "no-auth-plugin",  # the definition relies on the gateway's own keys
    "no-token",  # CustomKeyCheck accepted the caller without naming its key
    "policy",  # the session names a policy that is not there
    "inactive",
    "expired",
    "access-rights",
    "rate",
    "quota",
    "no-id",  # the ID extractor found no value
    "unsendable",  # a header that Go's client does not send
    "upstream",  # the upstream did not answer, or not what it said
]


class Failed(Exception):
    """The gateway answers with an error of its own making."""

    def __init__(
        self, reason: FailureReason, status: int, message: str, headers: GoHeader | None = None
    ) -> None:
        super().__init__(f"{status} {message}")
        self.reason = reason
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
