"""The bodies of errors: Kong's own, by what the client accepts, and nginx's."""

from __future__ import annotations

from coprocess.desk.kong.simulator.http import REASONS

UNEXPECTED = b"An unexpected error occurred"
MESSAGES = {
    400: b"Bad request",
    401: b"Unauthorized",
    402: b"Payment required",
    403: b"Forbidden",
    404: b"Not found",
    405: b"Method not allowed",
    406: b"Not acceptable",
    407: b"Proxy authentication required",
    408: b"Request timeout",
    409: b"Conflict",
    410: b"Gone",
    411: b"Length required",
    412: b"Precondition failed",
    413: b"Payload too large",
    414: b"URI too long",
    415: b"Unsupported media type",
    416: b"Range not satisfiable",
    417: b"Expectation failed",
    418: b"I'm a teapot",
    421: b"Misdirected request",
    422: b"Unprocessable entity",
    423: b"Locked",
    424: b"Failed dependency",
    425: b"Too early",
    426: b"Upgrade required",
    428: b"Precondition required",
    429: b"Too many requests",
    431: b"Request header fields too large",
    451: b"Unavailable for legal reasons",
    494: b"Request header or cookie too large",
    500: UNEXPECTED,
    501: b"Not implemented",
    502: b"An invalid response was received from the upstream server",
    503: b"The upstream server is currently unavailable",
    504: b"The upstream server is timing out",
    505: b"HTTP version not supported",
    506: b"Variant also negotiates",
    507: b"Insufficient storage",
    508: b"Loop detected",
    510: b"Not extended",
    511: b"Network authentication required",
}
#: Statuses whose page Kong writes where nginx would: all others without a body are nginx's own.
KONG_PAGES = frozenset({400, 404, 405, 408, 411, 412, 413, 414, 417, 494, 500, 502, 503, 504})
_TEMPLATES = {
    b"application/json": b'{\n  "message":"%s",\n  "request_id":"%s"\n}',
    b"text/plain": b"%s\nrequest_id: %s\n",
    b"text/html": b'<!doctype html>\n<html>\n  <head>\n    <meta charset="utf-8">\n    <title>Error</title>\n'
    b"  </head>\n  <body>\n    <h1>Error</h1>\n    <p>%s.</p>\n    <p>request_id: %s</p>\n"
    b"  </body>\n</html>\n",
    b"application/xml": b'<?xml version="1.0" encoding="UTF-8"?>\n<error>\n  <message>%s</message>\n'
    b"  <requestid>%s</requestid>\n</error>\n",
}


def message_of(status: int) -> bytes:
    return MESSAGES.get(status, b"The upstream server responded with %d" % status)


def media_type(accept: bytes | None) -> bytes:
    """Which of the forms the client likes best; JSON where it does not say."""
    best: tuple[float, bytes] | None = None
    for entry in (accept or b"").split(b","):
        name, *parameters = (part.strip().lower() for part in entry.split(b";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith(b"q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        for known in _TEMPLATES:
            kind, _, rest = name.partition(b"/")
            fits = name == known or (rest == b"*" and (kind == b"*" or known.startswith(kind + b"/")))
            if fits and (best is None or quality > best[0]):
                best = quality, known
    return best[1] if best else b"application/json"


def error_page(message: bytes, request_id: bytes, accept: bytes | None) -> tuple[bytes, bytes]:
    """Content type and body."""
    kind = media_type(accept)
    return kind + b"; charset=utf-8", _TEMPLATES[kind] % (message, request_id)


def nginx_page(status: int) -> bytes:
    title = f"{status} {REASONS.get(status, '')}".rstrip().encode()
    return (
        b"<html>\r\n<head><title>%s</title></head>\r\n<body>\r\n<center><h1>%s</h1></center>\r\n"
        b"</body>\r\n</html>\r\n" % (title, title)
    )
