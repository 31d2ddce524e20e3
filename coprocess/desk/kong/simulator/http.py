"""HTTP messages as nginx holds them: bytes, header lines in their order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

Lines = list[tuple[bytes, bytes]]

#: Status lines as nginx writes them.
REASONS = {
    200: "OK",
    201: "Created",
    202: "Accepted",
    204: "No Content",
    206: "Partial Content",
    301: "Moved Permanently",
    302: "Moved Temporarily",
    303: "See Other",
    304: "Not Modified",
    307: "Temporary Redirect",
    308: "Permanent Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Not Allowed",
    406: "Not Acceptable",
    408: "Request Time-out",
    409: "Conflict",
    410: "Gone",
    411: "Length Required",
    412: "Precondition Failed",
    413: "Request Entity Too Large",
    414: "Request-URI Too Large",
    415: "Unsupported Media Type",
    416: "Requested Range Not Satisfiable",
    421: "Misdirected Request",
    429: "Too Many Requests",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Temporarily Unavailable",
    504: "Gateway Time-out",
    505: "HTTP Version Not Supported",
    507: "Insufficient Storage",
}
#: What belongs to one connection, and is not passed on.
HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)


class Headers:
    """Header lines in order; names compare without regard to case."""

    __slots__ = ("lines",)

    def __init__(self, lines: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self.lines: Lines = list(lines)

    def get(self, name: bytes) -> bytes | None:
        """The first value."""
        wanted = name.lower()
        return next((value for key, value in self.lines if key.lower() == wanted), None)

    def all(self, name: bytes) -> list[bytes]:
        wanted = name.lower()
        return [value for key, value in self.lines if key.lower() == wanted]

    def remove(self, name: bytes) -> None:
        wanted = name.lower()
        self.lines = [line for line in self.lines if line[0].lower() != wanted]

    def set(self, name: bytes, values: Iterable[bytes]) -> None:
        """In the place of what was there."""
        self.remove(name)
        self.lines += [(name, value) for value in values]

    def add(self, name: bytes, values: Iterable[bytes]) -> None:
        self.lines += [(name, value) for value in values]

    def copy(self) -> Headers:
        return Headers(self.lines)

    def multi(self, limit: int) -> dict[bytes, list[bytes]]:
        """Lower-case name → values, of the first `limit` lines; 0 is no limit."""
        found: dict[bytes, list[bytes]] = {}
        for name, value in self.lines[: limit or None]:
            found.setdefault(name.lower(), []).append(value)
        return found


@dataclass(slots=True)
class ClientRequest:
    """One request as the client sent it."""

    method: str
    target: bytes
    version: float
    headers: Headers
    body: bytes = b""
    scheme: str = "http"
    #: Whether the client goes away: before all of the body has come, or before the answer.
    is_broken_off: bool = False
    is_left: bool = False
    #: Of the target; plugins can set another.
    query: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.query = self.target.partition(b"?")[2]

    @property
    def path(self) -> bytes:
        """Without query, as it came."""
        return self.target.partition(b"?")[0]


@dataclass(slots=True)
class ClientResponse:
    """What the client gets."""

    status: int
    headers: Headers
    body: bytes
    reason: str | None = None

    @property
    def status_line(self) -> str:
        reason = REASONS.get(self.status, "") if self.reason is None else self.reason
        return f"HTTP/1.1 {self.status} {reason}"


@dataclass(slots=True)
class UpstreamRequest:
    """What Kong sends to the service."""

    host: str
    port: int
    scheme: str
    method: str
    target: bytes
    headers: Headers
    body: bytes


@dataclass(slots=True)
class UpstreamReply:
    """What the service answers."""

    status: int
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""
    reason: str | None = None


class BadRequest(ValueError):
    """Bytes that are no HTTP request."""


_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([^ ]+) HTTP/(\d(?:\.\d)?)\r?\n?\Z")


def parse_requests(data: bytes) -> Iterator[ClientRequest]:
    """The requests of one connection, one after the other. Raises BadRequest."""
    while data:
        head, blank, rest = data.partition(b"\r\n\r\n")
        if not blank:
            raise BadRequest("a request without an end of its header")
        line, *fields = head.split(b"\r\n")
        found = _LINE.match(line)
        if not found:
            raise BadRequest(f"{line[:80]!r} is no request line")
        headers = Headers()
        for text in fields:
            name, colon, value = text.partition(b":")
            if not colon:
                raise BadRequest(f"{text[:80]!r} is no header line")
            headers.lines.append((name, value.strip(b" \t")))
        request = ClientRequest(found[1].decode(), found[2], float(found[3]), headers)
        data = _read_body(request, rest)
        yield request


def _read_body(request: ClientRequest, data: bytes) -> bytes:
    if b"chunked" in (request.headers.get(b"transfer-encoding") or b"").lower():
        body = b""
        while True:
            size_text, blank, data = data.partition(b"\r\n")
            try:
                size = int(size_text.split(b";")[0], 16)
            except ValueError:
                raise BadRequest("a chunk without its size") from None
            if size == 0 or not blank:
                request.body = body
                return data.partition(b"\r\n")[2]
            body, data = body + data[:size], data[size + 2 :]
    size = int(request.headers.get(b"content-length") or 0)
    request.body = data[:size]
    request.is_broken_off = len(request.body) < size
    return data[size:]


def parse_args(query: bytes, limit: int = 0) -> dict[bytes, list[bytes | bool]]:
    """Arguments of a query or form in their order; one without `=` is True. `limit` 0 is none."""
    found: dict[bytes, list[bytes | bool]] = {}
    pairs = [pair for pair in query.split(b"&") if pair]
    for pair in pairs[: limit or None]:
        name, equals, value = pair.partition(b"=")
        found.setdefault(unescape(name), []).append(unescape(value) if equals else True)
    found.pop(b"", None)
    return found


def unescape(text: bytes) -> bytes:
    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes([int(found[1], 16)]), text.replace(b"+", b" "))


def parse_multipart(body: bytes, content_type: bytes) -> dict[bytes, bytes] | None:
    """The parts by name; None where there is no boundary."""
    found = re.search(rb'boundary="?([^";]+)"?', content_type)
    if not found:
        return None
    parts: dict[bytes, bytes] = {}
    for piece in body.split(b"--" + found[1])[1:]:
        if piece.startswith(b"--"):
            break
        head, blank, content = piece.partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]*)"', head)
        if blank and name:
            parts[name[1]] = content.removesuffix(b"\r\n")
    return parts
