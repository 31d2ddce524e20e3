"""Unary calls that go to another process as they came, by the thread that reads them, and come back so.

No object, task, thread or callback is between: the stream itself is the call, and all is done with the
server's lock.
"""

from __future__ import annotations

from collections.abc import Callable

from coprocess.transport.http2.grpc_connection import Begin
from coprocess.transport.http2.server import Server
from coprocess.transport.http2.streams import Stream

#: Given how an engine begins calls of a method, it gives how they are to be begun: that begins those that it
#: does not take. Whoever takes one sets the stream's `call_id` and `owner`.
Relay = Callable[[Begin], Begin]


def end_relayed(server: Server, stream: Stream, status: int, body: bytes) -> None:
    """Answer with a reply, or with a status other than 0 and its message. The first answer counts."""
    connection = stream.owner
    if status:
        connection.end(stream, (status, body.decode("utf-8", "replace"), b"", ()))
    else:
        connection.respond(stream, body)
    if not connection.is_dirty:
        server.write_later(connection)
