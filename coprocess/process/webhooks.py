"""The listener for events that come as webhooks: `POST /events/HANDLER?api_id=…&org_id=…`.

It says who may send, and hands the body to the gateway; the event runs as one that came over gRPC. Its
sender, who repeats nothing and reads little of an answer, is answered before the handler runs.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIEnvironment

from coprocess.errors import BadMessage, CoprocessError, Overloaded, ShuttingDown, UnknownHook
from coprocess.process.admin_http import AdminServer
from coprocess.process.config import Settings
from coprocess.process.redaction import add_secret, redact_text
from coprocess.runtime.call import Call
from coprocess.runtime.failures import safe_text
from coprocess.runtime.service import Service
from coprocess.text import printable
from coprocess.transport import listeners

SECRET_HEADER = "X-Coprocess-Secret"  # noqa: S105 - the header's name
PREFIX = "/events/"

#: Bursts come on a connection for each event, and each is quick to answer.
_MAX_WAITING = 256
_THREADS = {"": 4}
_MAX_QUERY_FIELDS = 16

_BAD_REQUEST = "400 Bad Request"
_NOT_FOUND = "404 Not Found"
_UNAVAILABLE = "503 Service Unavailable"


class Webhooks:
    """The WSGI application, and `admit`, which is asked before a body is read."""

    def __init__(self, service: Service, secret: str, is_open: Callable[[], bool]) -> None:
        """`is_open`: whether handlers are loaded that may take events."""
        self._service = service
        self._is_open = is_open
        self._secret = _digest(secret.encode())

    def admit(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[str, str] | None:
        if not path.startswith(PREFIX) or path == PREFIX:
            return self.refuse(_NOT_FOUND, f"no such page. Expected: POST {PREFIX}HANDLER")
        if method != "POST":
            # A gateway sends a method that it does not know as GET.
            sentence = f"the webhook's method must be POST, not {printable(method[:20])}"
            return self.refuse("405 Method Not Allowed", sentence)
        given = headers.get(SECRET_HEADER.lower(), "").encode("latin-1", "replace")
        # Digests, so that the time does not even tell the length.
        if not hmac.compare_digest(_digest(given), self._secret):
            return self.refuse("401 Unauthorized", f"the header {SECRET_HEADER} is missing or wrong")
        return None

    def refuse(self, status: str, sentence: str) -> tuple[str, str]:
        """The refusal. The gateway reads no sentence, so that the service tells it, too, and counts."""

        def refuse() -> Call:
            raise BadMessage(f"webhook: {sentence}")

        with suppress(CoprocessError):
            self._service.events.take(refuse)
        return status, sentence

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        status, sentence = self._take(environ)
        if not sentence:
            start_response(status, [])
            return []
        body = json.dumps({"error": sentence}, indent=2).encode() + b"\n"
        start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    def _take(self, environ: WSGIEnvironment) -> tuple[str, str]:
        """The status, and why it is not taken; empty where it is."""
        if not self._is_open():
            return self.refuse(_UNAVAILABLE, "no handlers are served now")
        # WSGI has bytes as Latin-1.
        name = environ["PATH_INFO"].removeprefix(PREFIX).encode("latin-1").decode(errors="replace")
        try:
            query = parse_qs(environ.get("QUERY_STRING", ""), max_num_fields=_MAX_QUERY_FIELDS)
        except ValueError:
            return self.refuse(_BAD_REQUEST, "the query has too many fields. Expected: api_id and org_id")
        about = {key: values[0] for key, values in query.items()}
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        try:
            self._service.events.take(lambda: self._service.gateway.open_webhook(name, body, about))
        except UnknownHook as error:
            return _NOT_FOUND, _told(error)
        except (Overloaded, ShuttingDown) as error:
            return _UNAVAILABLE, _told(error)
        except CoprocessError as error:
            return _BAD_REQUEST, _told(error)
        return "204 No Content", ""


def _told(error: CoprocessError) -> str:
    return redact_text(safe_text(error))


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def listen_for_webhooks(
    settings: Settings, service: Service, is_open: Callable[[], bool], access: listeners.SocketAccess
) -> tuple[AdminServer, Callable[[], None]]:
    """Listens at once; answers when the function is called. Raises ListenError and ConfigError."""
    secret = settings.read_events_secret()
    add_secret(secret)
    pages = Webhooks(service, secret, is_open)

    def make(address: str) -> AdminServer:
        return AdminServer(
            address,
            listener="events",
            threads=_THREADS,
            max_body_bytes=settings.events_max_bytes,
            max_waiting=_MAX_WAITING,
            admit=pages.admit,
            tell_refused=pages.refuse,
        )

    server = listeners.listen(settings.events_listen, make, access)
    return server, lambda: server.start(pages)
