"""Requests and responses that are held in memory.

For gateways whose messages are no protobuf that could be viewed: the views of Tyk stay with Tyk.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode

from multidict import CIMultiDict

from coprocess.api.body import OF_THE_BYTES
from coprocess.api.body_stream import BodyStream
from coprocess.api.http import (
    IN_PATHS,
    MultiHeaders,
    ParsedQuery,
    canonical_name,
    expect_final_status,
    header_name,
    header_value,
    is_token,
)
from coprocess.api.messages import Constructed, Request, Response
from coprocess.expected import expect_text, wrong_type

#: Of a response: beyond, Envoy and Kong refuse one, and servers of web apps drop the connection.
HIGHEST_STATUS = 599


class Bare:
    """Made without a constructor, as in Python one costs more than what it does. Its maker sets its slots."""

    __slots__ = ()

    if TYPE_CHECKING:

        def __init__(self) -> None: ...

    else:
        __init__ = object.__init__


class Copied:
    """Python's `copy` does as its own: where slots are properties of a derived class, it could do nothing."""

    __slots__ = ()

    @abstractmethod
    def copy(self) -> Any:
        """A twin that later edits do not reach."""

    def __copy__(self) -> Any:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> Any:
        return self.copy()


class HeldHeaders(Copied, MultiHeaders):
    """Headers with all their values, which know what was edited."""

    __slots__ = ("_set_now", "edited")

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        # Not the base class's constructor, which checks: what came is as it came.
        self._values = CIMultiDict(pairs)
        #: Names, in canonical spelling, that were set, added to or deleted.
        self.edited: Any = set()  # A set; or of what derives from it, the keys of `replaced`.
        # What tells of the bytes of a body, and the handler that runs has set.
        self._set_now: set[str] | None = None

    def __setitem__(self, name: str, value: str) -> None:
        name = header_name(name)
        self._values[name] = header_value(name, value)
        self.edited.add(name)
        if name in OF_THE_BYTES:
            self._was_set(name)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        self.edited.add(canonical_name(name))

    def add(self, name: str, value: str) -> None:
        name = header_name(name)
        self._values.add(name, header_value(name, value))
        self.edited.add(name)
        if name in OF_THE_BYTES:
            self._was_set(name)

    def _was_set(self, name: str) -> None:
        self._set_now = {name, *(self._set_now or ())}

    def next_call(self) -> None:
        """Another handler is next: what this one set is to that one what came."""
        self._set_now = None

    def drop_of_the_bytes(self) -> None:
        """Drop what tells of the bytes of a body, but for what the handler that runs has set."""
        kept = self._set_now or ()
        for name in [name for name in self if name in OF_THE_BYTES and name not in kept]:
            del self[name]

    @property
    def replaced(self) -> Mapping[str, str] | None:
        """All that was edited, where that is names that were given one value; None: there is more to it."""
        return None

    def copy(self) -> HeldHeaders:
        twin = HeldHeaders(self.pairs())
        twin.edited |= self.edited
        return twin


class HeldQuery(ParsedQuery):
    """Query parameters of a query string. Those that nobody edits are sent byte for byte as they came."""

    __slots__ = ("_came", "_edited")

    def __init__(self, query: str) -> None:
        super().__init__(query)
        self._came = query
        #: The names that were set or deleted.
        self._edited: set[str] = set()

    @property
    def is_edited(self) -> bool:
        return bool(self._edited)

    def __setitem__(self, name: str, value: str) -> None:
        if not isinstance(name, str):
            raise wrong_type("a query parameter's name", "text", name)
        self._values[name] = expect_text(f"query parameter {name}: the value", value)
        self._edited.add(name)

    def __delitem__(self, name: str) -> None:
        del self._values[name]
        self._edited.add(name)

    def copy(self) -> HeldQuery:
        twin = HeldQuery(self._came)
        twin._values, twin._edited = self._values.copy(), set(self._edited)
        return twin

    def encoded(self) -> str:
        """As a query string, its names sorted, as gateways write it."""
        edited = self._edited
        came = [(name, piece) for name, piece in _pieces(self._came) if name not in edited]
        left = [(name, urlencode([(name, value)])) for name, value in self._values.items() if name in edited]
        return "&".join([piece for _, piece in sorted(came + left, key=itemgetter(0))])


def _pieces(query: str) -> Iterator[tuple[str, str]]:
    """Each parameter, with its name as it is read, and as it came."""
    for piece in query.split("&"):
        for name, _ in parse_qsl(piece, keep_blank_values=True):
            yield name, piece


def _no_body() -> bytes:
    return b""


class _HeldBody(Copied):
    """Headers and body, as a request and a response hold them."""

    if not TYPE_CHECKING:  # The slots are those of the classes that derive from it.
        __slots__ = ()

    _headers: HeldHeaders
    _body: bytes | None
    _body_source: Callable[[], bytes]
    has_new_body: bool
    _has_body_of_handler: bool
    #: Gives the body in pieces; its argument is whether they are replaced. None: it comes whole.
    open_stream: Callable[[bool], BodyStream] | None

    def _stream(self, replace: bool) -> BodyStream | None:
        return None if self.open_stream is None else self.open_stream(replace)

    if TYPE_CHECKING:

        @property
        def headers(self) -> HeldHeaders: ...

    else:  # Not a function of our own, as each call asks for them.
        headers = property(attrgetter("_headers"))

    @property
    def raw_body(self) -> bytes:
        if self._body is None:
            self._body = self._body_source()
        return self._body

    def body_came(self, body: bytes) -> None:
        """It is known now, and no handler has replaced it."""
        if self._body is None:
            self._body = body

    def _coding_of_body(self) -> str:
        return "" if self._has_body_of_handler else ", ".join(self._headers.getall("Content-Encoding"))

    def _replace_body(self, body: bytes) -> None:
        self._body = body
        self.has_new_body = self._has_body_of_handler = True
        self._headers.drop_of_the_bytes()

    def next_call(self) -> None:
        """Another handler is next: what this one left is to that one what came."""
        self._has_body_of_handler = False
        if self._headers._set_now is not None:
            self._headers.next_call()


class HeldRequest(_HeldBody, Request):
    """A request in memory. `body_source` gives its body when that is first asked for."""

    if not TYPE_CHECKING:
        __slots__ = (
            "_body",
            "_body_source",
            "_has_body_of_handler",
            "_headers",
            "_method",
            "_path",
            "_query",
            "_query_string",
            "_scheme",
            "_target",
            "has_new_body",
            "has_new_path",
            "open_stream",
        )

    def __init__(
        self,
        method: str,
        target: str,
        headers: HeldHeaders,
        *,
        query: str | None = None,
        scheme: str = "http",
        body_source: Callable[[], bytes] = _no_body,
    ) -> None:
        """`target` is path and query, as the client sent them; or the path alone, beside its `query`."""
        self._method = method
        self._target: str | None = target
        if query is None:
            self._path, _, self._query_string = target.partition("?")
        else:
            self._path, self._query_string = target, query
            # Put together when it is asked for.
            self._target = None
        self._scheme = scheme
        self._headers = headers
        self._query: HeldQuery | None = None
        self._body: bytes | None = None
        self._body_source = body_source
        self.open_stream = None
        #: Whether handlers have replaced the body, or the path.
        self.has_new_body = False
        self.has_new_path = False
        self._has_body_of_handler = False

    @property
    def method(self) -> str:
        return self._method

    @method.setter
    def method(self, method: str) -> None:
        if not is_token(expect_text("request.method", method)):
            raise ValueError(f"an HTTP method is a word such as GET, not {method!r}")
        self._method = method

    @property
    def query_string(self) -> str:
        """The query with its edits, encoded; as the client sent it where there are none."""
        query = self._query
        return query.encoded() if query is not None and query.is_edited else self._query_string

    @property
    def url(self) -> str:
        query = self.query_string
        return f"{self._path}?{query}" if query else self._path

    @url.setter
    def url(self, url: str) -> None:
        path, _, query = expect_text("request.url", url).partition("?")
        if not path.startswith("/"):
            scheme, colon, rest = path.partition("://")
            if not colon or not scheme.isalnum():
                raise ValueError(f"a URL begins with a slash, or is absolute; not {url!r}")
            # Of an absolute URL its path counts: the app is where it is.
            path = "/" + rest.partition("/")[2]
        if query and query != self._query_string:
            raise ValueError("a new URL keeps the query that came: edit it with request.query")
        self.path = path

    @property
    def path(self) -> str:
        return self._path

    @path.setter
    def path(self, path: str) -> None:
        if not _PATH.fullmatch(expect_text("request.path", path)):
            raise ValueError(f"a path begins with a slash, is encoded, and has no query; not {path!r}")
        self._target = self.target
        self._path = path
        self.has_new_path = True

    @property
    def encoded_path(self) -> str:
        """The path as it is sent: ASCII. A percent sign begins an escape."""
        return quote(self._path, safe=f"%{IN_PATHS}") if self.has_new_path else self._path

    @property
    def scheme(self) -> str:
        return self._scheme

    @property
    def target(self) -> str:
        if self._target is None:
            return f"{self._path}?{self._query_string}" if self._query_string else self._path
        return self._target

    @property
    def query(self) -> HeldQuery:
        if self._query is None:
            self._query = HeldQuery(self._query_string)
        return self._query

    def copy(self) -> HeldRequest:
        """A twin that later edits do not reach."""
        twin = HeldRequest(
            self._method,
            self.target,
            self._headers.copy(),
            scheme=self._scheme,
            body_source=self._body_source,
        )
        twin._path, twin._query_string = self._path, self._query_string
        if self._query is not None:
            twin._query = self._query.copy()
        twin._body, twin.has_new_body, twin.has_new_path = self._body, self.has_new_body, self.has_new_path
        return twin

    @property
    def has_new_query(self) -> bool:
        return self._query is not None and self._query.is_edited

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.url}>"


_PATH = re.compile(r"/([^\x00-\x1f\x7f%?]|%[0-9A-Fa-f]{2})*")


_OK, _PARTIAL = 200, 206


class HeldResponse(_HeldBody, Response, metaclass=Constructed):
    """A response in memory, as HeldRequest."""

    if not TYPE_CHECKING:
        __slots__ = (
            "_body",
            "_body_source",
            "_has_body_of_handler",
            "_headers",
            "_status",
            "has_new_body",
            "open_stream",
        )

    def __init__(
        self, status: int, headers: HeldHeaders, *, body_source: Callable[[], bytes] = _no_body
    ) -> None:
        self._status = status
        self._headers = headers
        self._body: bytes | None = None
        self._body_source = body_source
        self.open_stream = None
        self.has_new_body = self._has_body_of_handler = False

    @property
    def status(self) -> int:
        return self._status

    @status.setter
    def status(self, status: int) -> None:
        self._status = expect_final_status(status, HIGHEST_STATUS)

    def _replace_body(self, body: bytes) -> None:
        super()._replace_body(body)
        headers = self._headers
        if "Content-Range" in headers and "Content-Range" not in headers.edited and self.status == _PARTIAL:
            # The new body is no part of anything.
            del headers["Content-Range"]
            self.status = _OK

    def copy(self) -> HeldResponse:
        """A twin that later edits do not reach."""
        twin = HeldResponse(self._status, self._headers.copy(), body_source=self._body_source)
        twin._body, twin.has_new_body = self._body, self.has_new_body
        return twin

    def replace(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        """Make it another response altogether."""
        before = {*self._headers, *self._headers.edited}
        self.status = status
        self._headers = HeldHeaders()
        for name, value in headers:
            self._headers.add(name, value)
        self._headers.edited |= before
        self._body, self.has_new_body, self._has_body_of_handler = body, True, True

    def __repr__(self) -> str:
        return f"<Response {self.status}>"
