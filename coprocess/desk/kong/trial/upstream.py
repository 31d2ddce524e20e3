"""What answers behind the simulated Kong: the same things as behind every gateway."""

from __future__ import annotations

from typing import Any

from coprocess.desk.as_upstream import as_upstream as neutral_upstream
from coprocess.desk.kong.simulator.http import Headers, UpstreamReply, UpstreamRequest
from coprocess.desk.kong.trial.driver import Upstream
from coprocess.desk.upstreams import UpstreamRequest as NeutralRequest


def as_upstream(value: Any) -> Upstream:
    """`value` is a status, a reply, an http URL, a function of a request, or a WSGI or ASGI app.

    Raises TypeError for anything else.
    """
    ask = neutral_upstream(value)

    def upstream(request: UpstreamRequest) -> UpstreamReply:
        pairs = tuple(
            (name.decode("latin-1"), each.decode("latin-1")) for name, each in request.headers.lines
        )
        target = request.target.decode("latin-1")
        reply = ask(NeutralRequest(request.method, target, pairs, request.body))
        headers = Headers((name.encode("latin-1"), each.encode("latin-1")) for name, each in reply.headers)
        if headers.get(b"content-length") is None:
            headers.add(b"Content-Length", [b"%d" % len(reply.body)])
        return UpstreamReply(reply.status, headers, reply.body)

    return upstream
