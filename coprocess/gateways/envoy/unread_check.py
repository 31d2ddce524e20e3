"""The request that a CheckRequest has, and its body: read when somebody asks. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from coprocess.api import unread
from coprocess.api.held import HeldHeaders, HeldRequest
from coprocess.api.http import canonical_name
from coprocess.gateways.envoy.messages import Fields, request_of
from coprocess.gateways.envoy.skimmed import Http, items_of, merged
from coprocess.gateways.envoy.wire import HeaderMap

if TYPE_CHECKING:
    from coprocess.gateways.envoy.wire import HeaderValue


def request_without_line(http: Http, fields: Fields) -> HeldRequest:
    """Where only the headers tell path and method. Raises BadMessage, also where nothing does.

    So it is with the filter of connections: a handler would see a request with nothing in it.
    """
    body = BodyOfCheck(http, fields, "")
    request = request_of(fields, body.read)
    body.method = request._method
    return request


class UnreadFields(Fields):
    """Those of a HeaderMap, or of a map, that nobody has read so far."""

    __slots__ = ("_http", "_values_of_raw")

    def __init__(self, http: Http) -> None:
        # As the base class does.
        self.replaced, self._set_now = unread.NO_EDITS, None
        self._http = http
        self._values_of_raw: Sequence[HeaderValue] | None = None

    @property
    def _all(self) -> Sequence[HeaderValue]:  # type: ignore[override]  # a slot there
        values = self._values_of_raw
        if values is None:
            values = self._values_of_raw = merged(HeaderMap, self._http.header_map).headers
        return values

    def first_that_came(self, name: str) -> str | None:
        if self._all:
            return super().first_that_came(name)
        return items_of(self._http.headers).get(name)

    @property
    def count(self) -> int:
        return len(self._all) or len(self._http.headers)

    def _all_that_came(self) -> list[tuple[str, str]]:
        if self._all:
            pairs = super()._all_that_came()
        else:
            # A filter that was not told to send raw headers.
            came = items_of(self._http.headers)
            pairs = [
                (canonical_name(name), value.strip(" \t")) for name, value in came.items() if name[:1] != ":"
            ]
        # A filter with `allowed_headers` hides what they do not name, and tells it apart.
        if (host := self._http.host) and not any(name == "Host" for name, _ in pairs):
            pairs.insert(0, ("Host", host))
        return pairs


class UnreadRequest(unread.UnreadRequest):
    """As the filter sends it."""

    if not TYPE_CHECKING:
        __slots__ = ("_http",)

    def __init__(self, http: Http, method: str, fields: Fields) -> None:
        # As the base class does.
        self._http = http
        self._method = method
        self._headers = fields
        self._read_path = self._read_query = self._query = self._target = self._body = self.open_stream = None
        self.has_new_body = self.has_new_path = self._has_body_of_handler = False

    @property
    def target(self) -> str:
        target = self._target
        if target is None:
            target = self._http.path
            if not target or "!" in target:
                # It stands for a byte that `path` cannot hold, or for itself. Where the filter hides `:path`,
                # as `allowed_headers` make it, nothing says which.
                target = self._pseudo(":path") or target
            self._target = target
        return target

    def _pseudo(self, name: str) -> str:
        fields: Fields = self._headers  # type: ignore[assignment]  # set above
        return fields.pseudo().get(name, "")

    def _path_that_came(self) -> str:
        return self.target.partition("?")[0]

    def _query_that_came(self) -> str:
        return self.target.partition("?")[2]

    def _scheme_that_came(self) -> str:
        return self._pseudo(":scheme") or self._http.scheme or "http"

    if not TYPE_CHECKING:  # It is an attribute of the base class.

        @property
        def _body_source(self) -> Callable[[], bytes]:
            return BodyOfCheck(self._http, self._headers, self._http.method).read


class BodyOfCheck:
    """What came of the body. It does not know its request, which knows it."""

    __slots__ = ("_headers", "_http", "method")

    def __init__(self, http: Http, headers: HeldHeaders, method: str) -> None:
        self._http = http
        self._headers = headers
        #: As it came.
        self.method = method

    def _came(self) -> bytes:
        return self._http.raw_body or self._http.body

    @property
    def is_whole(self) -> bool:
        """Whether all of it is here, and is what the upstream gets.

        A filter that sends bodies says of each whether it is a part; a client may say so, too. Where nothing
        came, and there is no length, there may be none, or one that Envoy does not send: `Transfer-Encoding`
        it takes away.
        """
        headers = self._headers
        if any(value != "false" for value in headers.getall(_PARTIAL)):
            return False
        if came := self._came():
            # Sent as text, `!` stands for a byte that is no UTF-8, or for itself: nothing says which.
            return bool(self._http.raw_body) or b"!" not in came
        length = headers.get("Content-Length", "")
        if length or "Transfer-Encoding" in headers:
            return length == "0"
        return self.method in _WITHOUT_BODY

    def read(self) -> bytes:
        if not self.is_whole:
            raise RuntimeError(NO_BODY)
        return self._came()


_PARTIAL = "X-Envoy-Auth-Partial-Body"
#: To a body of these HTTP gives no meaning, and their clients tell no length where there is none.
_WITHOUT_BODY = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "TRACE"})
NO_BODY = (
    "reads a body, and Envoy sent none, a part, or text with `!` in the place of bytes. Expected: "
    "with_request_body in the filter, with pack_as_bytes: true, and large enough"
)
