"""`Request` over Tyk's MiniRequestObject: reads show the edits, edits become what the gateway reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

from coprocess.api.body import OF_THE_BYTES
from coprocess.api.http import (
    Headers,
    ParsedQuery,
    Query,
    canonical_name,
    header_name,
    header_value,
    is_token,
)
from coprocess.api.messages import Request
from coprocess.expected import expect_text, wrong_type

if TYPE_CHECKING:
    from coprocess.gateways.tyk.wire import MiniRequestObject


class TykRequest(Request):
    """A view: it holds no data of its own but the query, parsed when it is first asked for."""

    gateway: ClassVar[str] = "tyk"

    __slots__ = ("_has_new_body", "_headers", "_message", "_query", "_url_that_came", "was_edited_raw")

    def __init__(self, message: MiniRequestObject) -> None:
        self._message = message
        #: Whether the handler could reach the message past this view: then the reply guard looks closer.
        self.was_edited_raw = False
        self._headers: TykRequestHeaders | None = None
        self._query: TykQuery | None = None
        self._has_new_body = False
        # Kept when the URL may change: the gateway goes on with the query that was in it.
        self._url_that_came: str | None = None

    @property
    def object(self) -> MiniRequestObject:
        self.was_edited_raw = True
        self._keep_url()
        return self._message

    @property
    def method(self) -> str:
        return self._message.method

    @method.setter
    def method(self, method: str) -> None:
        if not is_token(expect_text("request.method", method)):
            raise ValueError(f"an HTTP method is a word such as GET, not {method!r}")
        self._message.method = method

    @property
    def url(self) -> str:
        return self._message.url

    @url.setter
    def url(self, url: str) -> None:
        if not is_acceptable_url(expect_text("request.url", url)):
            raise ValueError(f"a URL begins with a slash, or is absolute; not {url!r}")
        query = split_url(url)[1]
        if query and query != split_url(self._message.url)[1]:
            raise ValueError("the gateway keeps the query that came: edit it with request.query")
        self._keep_url()
        self._message.url = url

    def _keep_url(self) -> None:
        if self._url_that_came is None:
            self._url_that_came = self._message.url

    @property
    def path(self) -> str:
        return split_url(self._message.url)[0]

    @path.setter
    def path(self, path: str) -> None:
        if (
            not expect_text("request.path", path).startswith("/")
            or "?" in path
            or not is_acceptable_url(path)
        ):
            raise ValueError(f"a path begins with a slash and has no query; not {path!r}")
        query = split_url(self._message.url)[1]
        self._keep_url()
        self._message.url = f"{path}?{query}" if query else path

    @property
    def scheme(self) -> str:
        return self._message.scheme

    @property
    def target(self) -> str:
        return self._message.request_uri

    @property
    def headers(self) -> Headers:
        if self._headers is None:
            self._headers = TykRequestHeaders(self._message)
        return self._headers

    @property
    def query(self) -> Query:
        if self._query is None:
            url = self._message.url if self._url_that_came is None else self._url_that_came
            self._query = TykQuery(self._message, split_url(url)[1])
        return self._query

    @property
    def raw_body(self) -> bytes:
        return self._message.raw_body

    def _coding_of_body(self) -> str:
        if self._has_new_body:
            return ""
        headers = self._message.headers
        return headers.get("Content-Encoding") or headers.get("content-encoding", "")

    def _replace_body(self, body: bytes) -> None:
        message = self._message
        set_body(message, body)
        self._has_new_body = True
        for name in message.headers:
            if canonical_name(name) in OF_THE_BYTES and spelling_in(message.set_headers, name) is None:
                self.headers.pop(name, None)

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.url}>"


def is_acceptable_url(url: str) -> bool:
    """Whether the gateway takes `url` in a reply (recordings url_empty, url_relative)."""
    if url.startswith("/") and "%" not in url and url.isprintable():
        return True
    return _ACCEPTABLE_URL.fullmatch(url) is not None


# What Go parses as a request's URI: no control characters, and in the path no % that is no escape.
_ACCEPTABLE_URL = re.compile(
    r"(/|[A-Za-z][A-Za-z0-9+.-]*://)([^\x00-\x1f\x7f%?]|%[0-9A-Fa-f]{2})*(\?[^\x00-\x1f\x7f]*)?"
)


def split_url(url: str) -> tuple[str, str]:
    """Path and query of a URL, with host or without."""
    # Not urlsplit: for that, the path //host/a has a host, and # begins a fragment.
    head, _, query = url.partition("?")
    if not head.startswith("/"):
        _, _, rest = head.partition("://")
        _, slash, path = rest.partition("/")
        head = slash + path
    return head, query


def set_body(message: MiniRequestObject, body: bytes) -> None:
    """Set both forms of the body. As the gateway does, text is left empty where the bytes are none."""
    message.raw_body = body
    try:
        message.body = body.decode()
    except UnicodeDecodeError:
        message.body = ""


def spelling_in(headers: Mapping[str, str], name: str) -> str | None:
    """The spelling in which `headers` has `name`; None where it has it in none.

    The gateway spells names canonically; handlers, and other callers, in any way.
    """
    if not headers:
        return None
    try:
        if name in headers:
            return name
    except TypeError:
        expect_text("a header name", name)
        raise
    canonical = canonical_name(name)
    if canonical in headers:
        return canonical
    return next((key for key in headers if canonical_name(key) == canonical), None)


class TykRequestHeaders(Headers):
    """Headers of a request: the gateway shows the first value of each, and takes one value of each.

    Reads: set_headers, else headers less delete_headers. Edits: set_headers and delete_headers.
    """

    __slots__ = ("_message",)

    def __init__(self, message: MiniRequestObject) -> None:
        self._message = message

    def _find(self, name: str) -> str | None:
        message = self._message
        if (key := spelling_in(message.set_headers, name)) is not None:
            return message.set_headers.get(key)
        key = spelling_in(message.headers, name)
        if key is None or self._is_deleted(canonical_name(name)):
            return None
        return message.headers.get(key)

    def _is_deleted(self, canonical: str) -> bool:
        return any(canonical_name(deleted) == canonical for deleted in self._message.delete_headers)

    def __getitem__(self, name: str) -> str:
        if (value := self._find(name)) is None:
            raise KeyError(name)
        return value

    def __setitem__(self, name: str, value: str) -> None:
        if header_name(name) == "Host":
            raise ValueError("the gateway sets Host itself: a handler cannot")
        set_headers = self._message.set_headers
        key = spelling_in(set_headers, name) or name
        set_headers[key] = header_value(name, value)

    def __delitem__(self, name: str) -> None:
        if self._find(name) is None:
            raise KeyError(name)
        name = canonical_name(name)
        if name == "Host":
            raise ValueError("the gateway sets Host itself: a handler cannot delete it")
        while (key := spelling_in(self._message.set_headers, name)) is not None:
            del self._message.set_headers[key]
        if spelling_in(self._message.headers, name) is not None and not self._is_deleted(name):
            self._message.delete_headers.append(name)

    def __iter__(self) -> Iterator[str]:
        message = self._message
        came = (canonical_name(name) for name in message.headers)
        names = dict.fromkeys(name for name in came if not self._is_deleted(name))
        names.update(dict.fromkeys(canonical_name(name) for name in message.set_headers))
        return iter(names)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name) is not None

    def getall(self, name: str) -> list[str]:
        value = self._find(name)
        return [] if value is None else [value]

    def add(self, name: str, value: str) -> None:
        """Add a value. The gateway takes one: where there is one already, both are joined by a comma."""
        present = self._find(name)
        self[name] = value if present is None else f"{present}, {value}"


class TykQuery(ParsedQuery):
    """Query parameters. Reads: the URL's query with the edits. Edits: add_params and delete_params."""

    __slots__ = ("_message",)

    def __init__(self, message: MiniRequestObject, query: str) -> None:
        super().__init__(query)
        self._message = message
        # Edits that were made in the message before (several handlers never see one message, but a
        # handler may use request.object and then this).
        for name in message.delete_params:
            self._values.popall(name, None)
        for name, value in message.add_params.items():
            self._values[name] = value

    def __setitem__(self, name: str, value: str) -> None:
        if not isinstance(name, str):
            raise wrong_type("a query parameter's name", "text", name)
        if not isinstance(value, str):
            raise wrong_type(f"query parameter {name}: the value", "text", value)
        self._message.add_params[name] = value
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        del self._values[name]
        if name in self._message.add_params:
            del self._message.add_params[name]
        self._message.delete_params.append(name)
