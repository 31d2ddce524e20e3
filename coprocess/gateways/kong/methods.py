"""A function of Kong's PDK as it is asked for: its bytes on the wire, and how Kong answers it."""

from __future__ import annotations

from typing import Final

from coprocess.gateways.kong import wire

#: After these, Kong is done with the event: no step comes.
TERMINAL: Final = frozenset(("kong.response.exit", "kong.response.error"))
#: In these, Kong may wait for the client, or for others, and serve other requests meanwhile.
MAY_WAIT: Final = frozenset(
    (
        "kong.request.get_raw_body",
        "kong.request.get_body",
        "kong.service.response.get_raw_body",
        "kong.service.response.get_body",
        "kong.client.load_consumer",
        "kong.client.authenticate",
        "kong.client.tls.request_client_certificate",
        "kong.service.set_upstream",
        "kong.vault.get",
        "kong.vault.update",
    )
)


class Method:
    """Made once for each function that has a name here: calls pack their arguments only."""

    __slots__ = ("head", "is_terminal", "is_usual", "may_wait", "name")

    def __init__(self, name: str) -> None:
        """Raises what `wire.pack` does for a name that cannot be sent."""
        self.name = name
        #: Of an answer, between its id and the arguments.
        self.head = b"\xc0\x82\xa4Data\x82\xa6Method" + wire.pack(name) + b"\xa4Args"
        self.is_terminal = name in TERMINAL
        self.may_wait = name in MAY_WAIT
        #: A step comes, and at once.
        self.is_usual = not (self.is_terminal or self.may_wait)
