"""A request and a response that Kong is asked for, part by part, when a handler first wants one.

Each part is a round trip, and most handlers want one or two, or only set something.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from coprocess.api.held import HeldHeaders, HeldRequest, HeldResponse
from coprocess.api.http import canonical_name
from coprocess.api.unread import NO_EDITS, UnreadHeaders, UnreadRequest
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

    def copy(self) -> AskedHeaders:
        twin = AskedHeaders(self.asks)
        twin._given = self._given
        if self.replaced is None:
            twin.replaced = None
            twin._read, twin._edited = self._read.copy(), self._edited.copy()
        elif self.replaced is not NO_EDITS:
            twin.replaced = self.replaced.copy()
        return twin


class AskedRequest(UnreadRequest):
    """A slot is None until Kong has been asked for what it holds, or a handler has set it."""

    if not TYPE_CHECKING:
        __slots__ = ("_kong", "_read_scheme", "came_with")

    _headers: AskedHeaders
    _method: str | None  # type: ignore[assignment]  # None: as above
    _read_path: str | None  # type: ignore[assignment]  # known as None there
    _read_query: str | None  # type: ignore[assignment]  # as above
    _read_scheme: str | None

    def __init__(self, kong: Any) -> None:
        # Not by the base class's, which wants the method.
        self._kong = kong
        self._headers = AskedHeaders(kong.request)
        #: The method that came; None: nobody has asked for it.
        self.came_with: str | None = None
        self._method = self._target = self._read_path = self._read_query = self._read_scheme = None
        self._query = self._body = self.open_stream = None
        self.has_new_body = self.has_new_path = self._has_body_of_handler = False

    if not TYPE_CHECKING:  # As those of the base class, which read the slot alone.

        @property
        def method(self) -> str:
            if self._method is None:
                self._method = self.came_with = _text(self._kong.request.get_method())
            return self._method

        method = method.setter(HeldRequest.method.fset)

        @property
        def target(self) -> str:
            if self._target is None:
                self._target = _text(self._kong.request.get_path_with_query())
            return self._target

    def _path_that_came(self) -> str:
        return self.target.partition("?")[0]

    def _query_that_came(self) -> str:
        return self.target.partition("?")[2]

    def _scheme_that_came(self) -> str:
        if self._read_scheme is None:
            self._read_scheme = _text(self._kong.request.get_scheme())
        return self._read_scheme

    def _body_source(self) -> bytes:
        # With an argument: else Kong fails where it has put the body into a file.
        return _bytes(self._kong.request.get_raw_body(0))

    def go_on(self, kong: Any) -> None:
        """Ask in another phase from now on."""
        self._kong = kong
        self._headers.asks = kong.request

    def ask_for(self, attributes: set[str]) -> None:
        """Ask now for what these attributes need."""
        if not attributes.isdisjoint(_OF_HEADERS):
            _ = self._headers.given
        if not attributes.isdisjoint(_OF_TARGET):
            _ = self.target
        if "method" in attributes:
            _ = self.method
        if "scheme" in attributes:
            _ = self.scheme

    @property
    def has_new_method(self) -> bool:
        return self._method != self.came_with

    def copy(self) -> AskedRequest:
        """It has what was asked for. What was not, it asks for itself, also in a later phase."""
        twin = AskedRequest(self._kong)
        twin._headers = self._headers.copy()
        twin._method, twin.came_with = self._method, self.came_with
        twin._target, twin._read_scheme = self._target, self._read_scheme
        twin._read_path, twin.has_new_path = self._read_path, self.has_new_path
        twin._read_query = self._read_query
        if self._query is not None:
            twin._query = self._query.copy()
        twin._body, twin.has_new_body = self._body, self.has_new_body
        return twin


#: What a body is read by looks for its coding.
_OF_HEADERS: Final = frozenset(("headers", "cookies", *BODY_NAMES))
_OF_TARGET: Final = frozenset(("path", "url", "target", "query", "query_string"))


class AskedResponse(HeldResponse):
    """As AskedRequest."""

    if not TYPE_CHECKING:
        __slots__ = ("_kong", "came_with")

    _status: int | None  # type: ignore[assignment]  # None: as above

    def __init__(self, kong: Any) -> None:
        self._kong = kong
        self._headers: HeldHeaders = AskedHeaders(kong.response)
        self.came_with: int | None = None
        self._status = self._body = self.open_stream = None
        self.has_new_body = self._has_body_of_handler = False

    if not TYPE_CHECKING:  # As for AskedRequest.

        @property
        def status(self) -> int:
            if self._status is None:
                self._status = self.came_with = int(self._kong.response.get_status())
            return self._status

        status = status.setter(HeldResponse.status.fset)

    def _body_source(self) -> bytes:
        return _bytes(self._kong.service.response.get_raw_body())

    def ask_for(self, attributes: set[str]) -> None:
        if not attributes.isdisjoint(_OF_HEADERS) and isinstance(self._headers, AskedHeaders):
            _ = self._headers.given
        if "status" in attributes:
            _ = self.status

    @property
    def has_new_status(self) -> bool:
        return self._status != self.came_with

    def copy(self) -> AskedResponse:
        """As AskedRequest's."""
        twin = AskedResponse(self._kong)
        twin._headers = self._headers.copy()
        twin._status, twin.came_with = self._status, self.came_with
        twin._body, twin.has_new_body = self._body, self.has_new_body
        return twin


def _texts(values: Any) -> list[str]:
    return [_text(value) for value in values] if isinstance(values, list) else [_text(values)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _bytes(body: Any) -> bytes:
    return body if isinstance(body, bytes) else str(body or "").encode(errors="surrogateescape")
