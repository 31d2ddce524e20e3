"""Requests and responses out of Envoy's header lists."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from coprocess.api.held import HeldHeaders, HeldRequest, HeldResponse
from coprocess.api.http import canonical_name
from coprocess.errors import BadMessage

if TYPE_CHECKING:
    from coprocess.gateways.envoy.wire import HeaderValue

BodySource = Callable[[], bytes]

name_of = functools.lru_cache(maxsize=4096)(canonical_name)


class Fields:
    """A header list, read."""

    __slots__ = ("encoded", "headers", "pseudo")

    def __init__(self, values: Iterable[HeaderValue]) -> None:
        #: `:path` and its like.
        self.pseudo: dict[str, str] = {}
        #: The bytes of values that are not UTF-8: those are shown as Latin-1.
        self.encoded: dict[str, bytes] = {}
        pairs: list[tuple[str, str]] = []
        for each in values:
            key = each.key
            # It holds the bytes; `value` is there where an old Envoy was told to use it.
            value = each.raw_value or each.value.encode()
            try:
                text = value.decode()
            except UnicodeDecodeError:
                text = value.decode("latin-1")
                self.encoded[text] = value
            if key[:1] == ":":
                self.pseudo[key] = text
                if key == ":authority":
                    pairs.append(("Host", text))
            else:
                pairs.append((name_of(key), text))
        self.headers = HeldHeaders(pairs)


def request_of(fields: Fields, body_source: BodySource) -> HeldRequest:
    """Raises BadMessage."""
    pseudo = fields.pseudo
    try:
        method = pseudo[":method"]
    except KeyError:
        raise BadMessage("request headers without :method") from None
    return HeldRequest(
        method,
        pseudo.get(":path", ""),  # CONNECT has none.
        fields.headers,
        scheme=pseudo.get(":scheme", "http"),
        body_source=body_source,
    )


def no_request() -> HeldRequest:
    """Where a stream begins with the response."""
    return HeldRequest("", "", HeldHeaders())


def response_of(fields: Fields, body_source: BodySource) -> HeldResponse:
    """Raises BadMessage."""
    status = fields.pseudo.get(":status", "")
    if len(status) != _STATUS_DIGITS or not (status.isascii() and status.isdecimal()):
        raise BadMessage("response headers without a :status of three digits")
    return HeldResponse(int(status), fields.headers, body_source=body_source)


_STATUS_DIGITS = 3
