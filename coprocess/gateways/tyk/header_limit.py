"""How many headers one message may bring."""

from __future__ import annotations

from coprocess.errors import TooManyHeaders
from coprocess.gateways.tyk.wire import Object, ResponseObject

#: No header takes fewer bytes in a message: a tag and a length.
_LEAST_BYTES = 2


class HeaderLimit:
    """Refuses messages whose request and response have more than `most` headers together."""

    __slots__ = ("_most", "harmless_bytes")

    def __init__(self, most: int) -> None:
        self._most = most
        #: A message of at most this size cannot have too many, and need not be checked.
        self.harmless_bytes = most * _LEAST_BYTES

    def check(self, message: Object) -> None:
        """Raises TooManyHeaders."""
        count = len(message.request.headers) + self._count_response(message.response)
        if count > self._most:
            raise TooManyHeaders(f"the message has more than {self._most} headers (max_headers)")

    def _count_response(self, response: ResponseObject) -> int:
        several = response.multivalue_headers
        count = len(several)
        if count <= self._most:  # Else it is enough to know, and counting on could take long.
            count = sum(max(1, len(header.values)) for header in several)
        # The same headers in two forms.
        return max(count, len(response.headers))
