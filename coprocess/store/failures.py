"""How an operation's error is told to people, and what to do about it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from redis import exceptions

from coprocess.store.address import Address

# What an operation may raise. UnicodeError is what a host name that cannot be encoded raises.
ERRORS = (exceptions.RedisError, exceptions.RedisClusterException, OSError, UnicodeError)


def is_closed_transport(error: RuntimeError | AttributeError) -> bool:
    """Whether `error` is an event loop's for a connection that closed before a command was written to it.

    uvloop raises a RuntimeError there; asyncio's own loop ConnectionResetError, and, from Python 3.12 on,
    AttributeError, as its closed transport has no loop any more.
    """
    return "the handler is closed" in str(error) or "'_add_writer'" in str(error)


@dataclass(frozen=True)
class Failure:
    reason: str
    """For people; without credentials."""
    connection_lost: bool = False
    client_broken: bool = False
    """The client is of no more use: a new one must be made."""


def explain(error: Exception, address: Address, timeout_s: float, deadline: float) -> Failure:
    if isinstance(error, exceptions.TimeoutError | TimeoutError) or time.monotonic() >= deadline:
        return Failure(f"no answer within {timeout_s:g} s")
    if type(error).__name__ == "MasterNotFoundError":
        # Its own text has every sentinel's client in it; the class differs between sync and async.
        reason = f"no sentinel answers that knows a reachable primary {address.sentinel_name!r}"
    else:
        reason = address.redact(str(error) or type(error).__name__)
    if isinstance(error, exceptions.RedisClusterException):
        # Some versions of redis-py forget all nodes when none was reachable, and never recover.
        return Failure(reason, connection_lost=True, client_broken=True)
    return Failure(reason, connection_lost=isinstance(error, exceptions.ConnectionError | ConnectionError))
