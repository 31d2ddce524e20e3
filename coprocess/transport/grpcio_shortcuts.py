"""Shorter ways through grpcio for calls with one request message, by its internals.

Each is left out where a later grpcio has other internals than those known here: the engine then takes its
public way, which does the same with more work. docs/performance.md tells what they save.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

#: What grpcio submits to its executor: a function, and what it is called with.
Submitted = tuple[Any, ...]
SendAll = Callable[[Any, Any, bytes | None], None]
ReceiveFirst = Callable[[Submitted, Callable[[Submitted], None]], bool]

try:
    _server: Any = importlib.import_module("grpc._server")
    _cygrpc: Any = importlib.import_module("grpc._cython.cygrpc")
except ImportError:
    _server = _cygrpc = None


def find_send_all() -> SendAll | None:
    """What grpcio itself ends a unary call with: message and status in one batch.

    Its callback for answers from other threads sends two, and waits for the first: half as much work
    again for each call.
    """
    if not _has("_status", "rpc_event", "state", "serialized_response"):
        return None
    send_all: SendAll = _server._status
    return send_all


def find_receive_first() -> ReceiveFirst | None:
    """`receive_first`, where this grpcio has what it needs."""
    known = (
        _has("_receive_message", "state", "call", "request_deserializer")
        and _has("_stream_response_in_pool", *_SUBMITTED_WITH)
        and hasattr(_server, "_RECEIVE_MESSAGE_TOKEN")
        and hasattr(_server, "_CANCELLED")
        and hasattr(_cygrpc, "ReceiveMessageOperation")
    )
    return receive_first if known else None


_SUBMITTED_WITH = (
    "rpc_event",
    "state",
    "behavior",
    "argument_thunk",
    "request_deserializer",
    "response_serializer",
)


def _has(name: str, *parameters: str) -> bool:
    try:
        return tuple(inspect.signature(getattr(_server, name)).parameters) == parameters
    except (AttributeError, TypeError, ValueError):  # It is not there, no function, or one of C.
        return False


def receive_first(submitted: Submitted, ready: Callable[[Submitted], None]) -> bool:
    """Receive a call's message before a thread takes the call.

    In grpcio's own way a thread takes the call, asks for its message, and sleeps until that is there: two
    switches of threads for each call instead of one, and a thread for each call whose message never comes.

    `ready` gets, in the place of `submitted`, what waits for nothing; in grpcio's polling thread, when the
    message is there or will not come. False, with nothing done, where this is not a call with one request
    message that is answered by a callback.
    """
    if len(submitted) != 1 + len(_SUBMITTED_WITH) or submitted[0] is not _server._stream_response_in_pool:
        return False
    function, event, state, behavior, wait_for_message, deserialize, serialize = submitted
    # Of this server's methods only some are such; the others are streams of requests.
    if not getattr(behavior, "takes_one_message", False):
        return False
    receive = _server._receive_message(state, event.call, deserialize)

    def take_message() -> Any:
        with state.condition:
            message, state.request = state.request, None
            gave_up = state.client is _server._CANCELLED
        # grpcio's own function finds out at once why there is none, and answers. Nobody waits for a call that
        # was given up in the meantime: it gives None, and the handler does not run.
        return wait_for_message() if message is None or gave_up else message

    def received(batch: Any) -> Any:
        finished = receive(batch)
        ready((function, event, state, behavior, take_message, deserialize, serialize))
        return finished

    # As grpcio does it. `submit` is called within the lock of the call's state.
    event.call.start_server_batch((_cygrpc.ReceiveMessageOperation(_NO_FLAGS),), received)
    state.due.add(_server._RECEIVE_MESSAGE_TOKEN)
    return True


_NO_FLAGS = 0
