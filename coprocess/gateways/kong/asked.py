"""A request and a response that Kong is asked for, part by part, when a handler first wants one.

Each part is a round trip, and most handlers want one or two, or only set something.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, Final

from coprocess.api.held import HeldRequest, HeldResponse
from coprocess.api.http import canonical_name
from coprocess.api.unread import UnreadHeaders
from coprocess.loading.body_use import BODY_NAMES

_MOST_HEADERS: Final = 1000


class AskedHeaders(UnreadHeaders):
    """Headers as Kong gives them: names in lower case, a value or a list of them."""

    __slots__ = ("_given", "asks")

    def __init__(self, asks: Any) -> None:
        """`asks`: the part of the PDK that has `get_headers`."""
        super().__init__()
        self.asks = asks
        self._given: dict[str, Any] | None = None

    @property
    def given(self) -> dict[str, Any]:
        if self._given is None:
            given = self.asks.get_headers(_MOST_HEADERS)
            self._given = given if isinstance(given, dict) else {}
        return self._given

    def _came(self, name: str) -> list[str]:
        return _texts(self.given.get(name.lower(), []))

    def _all_that_came(self) -> Iterable[tuple[str, str]]:
        return [
            (canonical_name(str(name)), value)
            for name, values in self.given.items()
            for value in _texts(values)
        ]


class AskedRequest(HeldRequest):
    """What has been asked for lies in its `__dict__`, as what handlers assign."""

    def __init__(self, kong: Any) -> None:
        # Not by the base class's, which is given all parts.
        self._kong = kong
        self._headers = AskedHeaders(kong.request)
        #: The method that came; None: nobody has asked for it.
        self.came_with: str | None = None
        self._query = self._body = self.open_stream = None
        self.has_new_body = self.has_new_path = self._has_body_of_handler = False

    @cached_property
    def _method(self) -> str:  # type: ignore[override]  # assigned to, as any cached one
        self.came_with = method = _text(self._kong.request.get_method())
        return method

    @cached_property
    def _target(self) -> str:  # type: ignore[override]  # never None here
        return _text(self._kong.request.get_path_with_query())

    @cached_property
    def _path(self) -> str:  # type: ignore[override]  # an attribute there
        return self._target.partition("?")[0]

    @cached_property
    def _query_string(self) -> str:  # type: ignore[override]  # as above
        return self._target.partition("?")[2]

    @cached_property
    def _scheme(self) -> str:  # type: ignore[override]  # as above
        return _text(self._kong.request.get_scheme())

    def _body_source(self) -> bytes:
        # With an argument: else Kong fails where it has put the body into a file.
        return _bytes(self._kong.request.get_raw_body(0))

    def go_on(self, kong: Any) -> None:
        """Ask in another phase from now on."""
        self._kong = kong
        if isinstance(self._headers, AskedHeaders):
            self._headers.asks = kong.request

    def ask_for(self, attributes: set[str]) -> None:
        """Ask now for what these attributes need."""
        if not attributes.isdisjoint(_OF_HEADERS) and isinstance(self._headers, AskedHeaders):
            _ = self._headers.given
        if not attributes.isdisjoint(_OF_TARGET):
            _ = self._target
        if "method" in attributes:
            _ = self._method
        if "scheme" in attributes:
            _ = self._scheme

    @property
    def has_new_method(self) -> bool:
        return "_method" in self.__dict__ and self._method != self.came_with


#: What a body is read by looks for its coding.
_OF_HEADERS: Final = frozenset(("headers", "cookies", *BODY_NAMES))
_OF_TARGET: Final = frozenset(("path", "url", "target", "query", "query_string"))


class AskedResponse(HeldResponse):
    """As AskedRequest."""

    def __init__(self, kong: Any) -> None:
        self._kong = kong
        self._headers = AskedHeaders(kong.response)
        self.came_with: int | None = None
        self._body = self.open_stream = None
        self.has_new_body = self._has_body_of_handler = False

    @cached_property
    def _status(self) -> int:  # type: ignore[override]  # as above
        self.came_with = status = int(self._kong.response.get_status())
        return status

    def _body_source(self) -> bytes:
        return _bytes(self._kong.service.response.get_raw_body())

    def ask_for(self, attributes: set[str]) -> None:
        if not attributes.isdisjoint(_OF_HEADERS) and isinstance(self._headers, AskedHeaders):
            _ = self._headers.given
        if "status" in attributes:
            _ = self._status

    @property
    def has_new_status(self) -> bool:
        return "_status" in self.__dict__ and self._status != self.came_with


def _texts(values: Any) -> list[str]:
    return [_text(value) for value in values] if isinstance(values, list) else [_text(values)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _bytes(body: Any) -> bytes:
    return body if isinstance(body, bytes) else str(body or "").encode(errors="surrogateescape")
