"""What an event is ended with, and what may come of one of its calls instead of a value."""

from __future__ import annotations

from typing import Any, Final

from coprocess.bounded import form_of
from coprocess.gateways.kong import wire

RETURN: Final = wire.pack(wire.RETURN)
#: What Kong itself says of failures within it.
_FAILURE_TEXT: Final = "An unexpected error occurred"

#: What packing raises.
UNSENDABLE: Final = (TypeError, ValueError, OverflowError, RecursionError)


class StepFailed(Exception):
    """Kong tells of an error instead of what the call gives."""


class PDKException(Exception):
    """A PDK call failed, where errors are raised and not returned."""


def pack_exit(status: int, body: Any, headers: Any = None) -> bytes:
    """What ends a request with an answer to its client."""
    arguments = (status, body) if headers is None else (status, body, headers)
    return wire.pack({"Method": "kong.response.exit", "Args": arguments})


_FAILED: Final = pack_exit(500, {"message": _FAILURE_TEXT})


def failure_data(phase: str) -> bytes:
    """What ends an event that failed: it refuses the request, where there is one that can be refused.

    In certificate and preread, exit raises in Kong, which ends the connection: that refuses, too.
    """
    return RETURN if phase == "log" else _FAILED


def unsendable(method: str, arguments: tuple[Any, ...], error: BaseException) -> TypeError:
    """What the call raises, with the argument that cannot be packed."""
    for number, argument in enumerate(arguments, 1):
        try:
            wire.pack(argument)
        except UNSENDABLE as its:
            return TypeError(
                f"{method}: argument {number}, {form_of(argument)}, cannot be sent to Kong: {its}. Expected: "
                "text, bytes, numbers of 64 bits, booleans, None, lists and dicts of these"
            )
    return TypeError(f"{method}: its arguments cannot be sent to Kong: {error}")
