"""What the client gets: Go's HTTP server, and the gateway's error pages on it."""

from __future__ import annotations

import unicodedata
from email.utils import formatdate

from coprocess.desk.tyk.simulator.exchange import HttpResponse
from coprocess.desk.tyk.simulator.headers import GoHeader
from coprocess.desk.tyk.simulator.outcome import Dropped
from coprocess.desk.tyk.simulator.sniff import detect_content_type

#: What Go's server holds back while it waits for the whole answer; a longer one is sent in chunks.
_HELD_BACK = 2048


def client_response(
    method: str, status: int, headers: GoHeader, body: bytes, *, now: float, streamed: bool = False
) -> HttpResponse:
    """As Go's server writes it. `streamed`: the gateway flushed before the body was complete.

    Raises Dropped for a status that Go refuses to write (recording `resp_status_zero`).
    """
    if not 100 <= status <= 999:
        raise Dropped(f"status {status} is none of HTTP's: the gateway's HTTP server panics")
    headers = headers.copy()
    bodiless = status < 200 or status in (204, 304)
    body = b"" if bodiless else body
    if bodiless:
        for name in ("Content-Length", "Transfer-Encoding", *(["Content-Type"] if status == 304 else [])):
            headers.remove(name)
    elif body and "Content-Type" not in headers and not headers.get("Content-Encoding"):
        headers.set("Content-Type", detect_content_type(body))
    if not headers.get("Content-Length").isdecimal():
        headers.remove("Content-Length")
    if not bodiless and "Content-Length" not in headers:
        if not streamed and len(body) <= _HELD_BACK:
            if body or method != "HEAD":
                headers.set("Content-Length", str(len(body)))
        elif method != "HEAD":
            headers.set("Transfer-Encoding", "chunked")
    if "Date" not in headers:
        headers.set("Date", formatdate(now, usegmt=True))
    return HttpResponse(status, tuple(headers.written()), b"" if method == "HEAD" else body)


def error_page(request_content_type: str, message: str, headers: GoHeader) -> bytes:
    """The body of the gateway's own error; sets the headers that go with it.

    JSON in every recording; XML for a client that sent XML, by the gateway's templates.
    """
    content_type = request_content_type.partition(";")[0]
    headers.add("X-Generator", "tyk.io")
    if content_type in ("application/xml", "text/xml"):
        headers.set("Content-Type", content_type)
        page = f'<?xml version = "1.0" encoding = "UTF-8"?>\n<error>{message}</error>\n'
    else:
        headers.set("Content-Type", "application/json")
        page = f'{{\n    "error": "{_escaped_for_javascript(message)}"\n}}'
    return page.encode("utf-8", "surrogateescape")


def _escaped_for_javascript(text: str) -> str:
    """Go's `template.JSEscapeString` (recording `override_quotes`); a quote `'` makes it no JSON."""
    escaped = []
    for character in text:
        if character in "\\'\"":
            escaped.append(f"\\{character}")
        elif character in "<>&=" or character < " ":
            escaped.append(f"\\u{ord(character):04X}")
        elif character < "\x80" or _go_prints(character):
            escaped.append(character)
        else:
            escaped.append(f"\\u{ord(character):04X}")
    return "".join(escaped)


def _go_prints(character: str) -> bool:
    # Go's unicode.IsPrint: letters, marks, numbers, punctuation, symbols.
    return unicodedata.category(character)[0] in "LMNPS"
