"""An event whose request lies in another worker: that one runs it, and asks Kong through this one."""

from __future__ import annotations

import socket

from coprocess.errors import CoprocessError
from coprocess.gateways.kong import wire
from coprocess.gateways.kong.answers import StepFailed
from coprocess.gateways.kong.connection import Connection
from coprocess.gateways.kong.event import Event
from coprocess.gateways.kong.methods import Method
from coprocess.gateways.kong.sharing import Share
from coprocess.gateways.kong.turns import EventEnded


class WorkerLost(CoprocessError):
    """The other worker ended while it ran the event."""


def run_elsewhere(event: Event, share: Share, worker: int) -> bool:
    """Have `worker` run `event` to its end. To it, this is Kong: what it asks, Kong is asked here.

    False where it takes no event, as it has ended. Raises WorkerLost, EventEnded.
    """
    ours, theirs = socket.socketpair()
    connection = Connection(ours, event.engine.max_frame_bytes)
    try:
        with theirs:
            if not share.give(worker, theirs, [wire.REQUEST, 0, wire.HANDLE_EVENT, [event.argument]]):
                return False
        _answer_all(event, connection)
    except (OSError, wire.FrameError, KeyError, TypeError, ValueError) as error:
        raise WorkerLost(
            f"worker {worker}, which has the request since its access phase, has not run this one: {error}"
        ) from error
    finally:
        connection.close()
    return True


def _answer_all(event: Event, connection: Connection) -> None:
    """Ask Kong what the other worker asks, until its event ends."""
    message_id = 0
    while True:
        message = wire.message_of(_received(event, connection))
        if not isinstance(message, wire.Answer) or message.error is not None:
            raise ValueError("it answered with an error")
        asked, event_id = message.result["Data"], message.result["EventId"]
        if asked == wire.RETURN:
            return
        kind = wire.STEP
        try:
            given = event.ask(Method(asked["Method"]), tuple(asked["Args"]))
        except StepFailed as error:
            kind, given = wire.STEP_ERROR, str(error)
        if event.is_over:
            return
        message_id += 1
        step = {"EventId": event_id, "Data": given}
        connection.send(wire.pack((wire.REQUEST, message_id, kind, (step,))))


def _received(event: Event, connection: Connection) -> object:
    while True:
        try:
            return connection.receive()
        except BlockingIOError:
            if event.is_over:  # Its time, which is this worker's to measure.
                raise EventEnded from None
