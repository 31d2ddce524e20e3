"""Whether Envoy does as `mode_override` says: it may drop it in silence, and let pass what was to be read.

What tells of that may have another reason, which a client can bring about: a route must not be shut by it.
"""

from __future__ import annotations

import time

from coprocess.gateways.envoy.messages import Fields

#: So many streams in a row that end without a body, while none has had one, are taken for a sign of it.
_DOUBTS = 3
#: And for so long.
_REFUSES_S = 60.0
#: What Envoy answers itself while it waits for a body: one that is no body, or too slow, or too large.
_ENVOYS_OWN = {400: "Bad request", 408: "Request timeout", 413: "Request entity too large"}
#: Its router adds it to what the upstream answers, unless it is told not to.
_OF_THE_UPSTREAM = "x-envoy-upstream-service-time"
_LOWEST_REDIRECT, _LOWEST_ERROR = 300, 400


class Overrides:
    """What was seen of it, by all streams of a chain."""

    __slots__ = ("_doubts", "_refuses_until_s", "works")

    def __init__(self) -> None:
        #: None: not yet known.
        self.works: bool | None = None
        self._doubts = 0
        self._refuses_until_s = 0.0

    @property
    def are_dropped(self) -> bool:
        """Whether to ask for a body is in vain."""
        if self.works is None:
            return time.monotonic() < self._refuses_until_s
        return not self.works

    def doubt(self) -> None:
        """No body came. It may be that nobody sent one, or that the upstream did not wait for it."""
        if self.works is not None:
            return
        self._doubts += 1
        if self._doubts >= _DOUBTS:
            self._refuse()

    def _refuse(self) -> None:
        self._refuses_until_s = time.monotonic() + _REFUSES_S

    def judge(self, status: int, fields: Fields) -> None:
        """A response came, though the request was to wait for its body."""
        if fields.first_that_came(_OF_THE_UPSTREAM) is not None:
            self.works = False
        elif status < _LOWEST_ERROR:
            # Of an upstream, where the router does not say so; else of another filter.
            self.works = None
            self._refuse()


def never() -> Overrides:
    """Of a filter that takes none."""
    overrides = Overrides()
    overrides.works = False
    return overrides


def is_of_the_upstream(status: int, fields: Fields) -> bool:
    """Whether it is surely no answer of Envoy's, or of a filter.

    Those may hand on what another service answered: an error, or where to log in.
    """
    return status < _LOWEST_REDIRECT and fields.first_that_came(_OF_THE_UPSTREAM) is not None


def envoys_own(status: int, fields: Fields) -> str:
    """What the client is told by this status, where it is Envoy's own word on a body; empty: it is not."""
    return "" if fields.first_that_came(_OF_THE_UPSTREAM) is not None else _ENVOYS_OWN.get(status, "")
