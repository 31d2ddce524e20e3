"""Every error this package raises on purpose, and the gRPC status each becomes."""

from __future__ import annotations

from enum import IntEnum
from typing import NoReturn


class Status(IntEnum):
    """gRPC status codes that this service answers with (numbers of the gRPC specification)."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class CoprocessError(Exception):
    """Base of all errors below. `status` is what a gateway sees where one ends a call."""

    status = Status.INTERNAL


class ConfigError(CoprocessError):
    """A setting is wrong. The text names the setting and where it came from."""


class HandlerError(CoprocessError):
    """A handler is declared wrongly: found at load. The text names file, line and what was expected."""


class LoadError(CoprocessError):
    """A handler file or folder could not be loaded."""


class UnknownHook(CoprocessError):
    """The gateway asked for a hook or event handler that is not loaded."""

    status = Status.NOT_FOUND


class BadMessage(CoprocessError):
    """What arrived is not the message it should be."""

    status = Status.INVALID_ARGUMENT


class BadBody(CoprocessError, ValueError):
    """A body cannot be read: it is not what its headers say, or not what the handler expects.

    Where a handler lets it pass before the upstream was asked, the client gets `http_status` and the text.
    """

    http_status = 400

    def __init__(self, text: str, http_status: int = 400) -> None:
        super().__init__(text)
        self.http_status = http_status


class TooManyHeaders(CoprocessError):
    """What arrived has more headers than a message may have."""

    status = Status.RESOURCE_EXHAUSTED


class HandlerFailed(CoprocessError):
    """A handler raised, or returned what cannot be a reply. The text is safe to send to the gateway."""


#: Of a CustomKeyCheck: Tyk would take its caller for nobody.
ADMITS_NOBODY = (
    'set metadata["token"] and nothing of the session, which admits nobody. Expected: session.allow("TOKEN")'
)


class Overloaded(CoprocessError):
    """Refused at once, because a limit is reached."""

    status = Status.RESOURCE_EXHAUSTED


class TimedOut(CoprocessError):
    """A handler did not end within its time limit."""

    status = Status.DEADLINE_EXCEEDED


class ShuttingDown(CoprocessError):
    """The service is stopping and takes no more calls."""

    status = Status.UNAVAILABLE


class StoreError(CoprocessError):
    """A store operation failed, or did not end within its deadline."""


def raise_from(error: BaseException, cause: BaseException | None) -> NoReturn:
    """`raise error from cause`, where that is compiled: mypyc leaves the cause out, and says nothing."""
    raise error from cause
