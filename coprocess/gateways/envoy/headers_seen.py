"""Requests and responses of streams whose handlers want headers, as those see them.

Handlers' objects are plain Python, also where what runs the handlers is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from coprocess.api.held import Bare, HeldRequest, HeldResponse
from coprocess.gateways.envoy.messages import Fields, UnreadFields, UnreadLine
from coprocess.gateways.envoy.side import RequestSide, ResponseSide, Side

BodySource = Callable[[], bytes]


class _Request(Bare, UnreadLine):
    """It tells of its body whether there is none, and no more."""

    #: Whether that is so.
    is_whole: bool

    if not TYPE_CHECKING:
        __slots__ = ("is_whole",)

        @property
        def _body_source(self) -> BodySource:
            return _body_source(RequestSide(), self._headers, self.is_whole)


class _Response(Bare, HeldResponse):
    """As the request."""

    came: UnreadFields
    is_whole: bool

    if not TYPE_CHECKING:
        __slots__ = ("came", "is_whole")

        @property
        def _body_source(self) -> BodySource:
            return _body_source(ResponseSide(), self.came, self.is_whole)


def _body_source(side: Side, fields: Fields, is_whole: bool) -> BodySource:
    side.begin(fields, is_whole=is_whole)
    return side.read


def request_of_headers(method: str, fields: UnreadFields, is_whole: bool) -> HeldRequest:
    request = _Request()
    request._headers = fields
    request._method = method
    request.is_whole = is_whole
    request._read_path = request._read_query = request._query = request._target = None
    request._body = request.open_stream = None
    request.has_new_body = request.has_new_path = request._has_body_of_handler = False
    return request


def response_of_headers(status: int, fields: UnreadFields, is_whole: bool) -> HeldResponse:
    response = _Response()
    response.came = response._headers = fields
    response._status = status
    response.is_whole = is_whole
    response._body = response.open_stream = None
    response.has_new_body = response._has_body_of_handler = False
    return response
