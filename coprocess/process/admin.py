"""The admin listener: health, metrics and the loaded hooks over HTTP, apart from the gateway's traffic.

Only reading, but for `POST /reload` and `POST /rollback`, which are for this machine alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import make_wsgi_app

from coprocess.loading.routes import RoutedTable
from coprocess.process.admin_access import refuse_command, refuse_page
from coprocess.process.redaction import redact_text
from coprocess.process.reload import Outcome, Reloader, Rollback, RollbackTo
from coprocess.transport.health import Health

_COMMAND_TIMEOUT_S = 60.0

_STATUS = {
    200: "200 OK",
    400: "400 Bad Request",
    403: "403 Forbidden",
    404: "404 Not Found",
    405: "405 Method Not Allowed",
    409: "409 Conflict",
    503: "503 Service Unavailable",
    504: "504 Gateway Timeout",
}


#: Pages that do something, and are asked for by POST.
COMMANDS = ("/reload", "/rollback")


class AdminPages:
    """The WSGI application. `reload` and `roll_back` ask for that, and give its outcome, later."""

    def __init__(
        self,
        health: Health,
        reloader: Reloader,
        registry: CollectorRegistry,
        reload: Callable[[str, bool], Future[Outcome]],
        roll_back: Callable[[RollbackTo | None], Future[Rollback]],
        store: Callable[[], Any] = lambda: None,
    ) -> None:
        """`store` gives what /readyz says of the store."""
        self._health = health
        self._reloader = reloader
        self._reload = reload
        self._roll_back = roll_back
        self._store = store
        self._metrics = make_wsgi_app(registry)
        self._pages: dict[str, Callable[[], tuple[int, Any]]] = {
            "/healthz": lambda: (200, {"status": "alive"}),
            "/readyz": self._ready,
            "/hooks": self._hooks,
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path, method = environ.get("PATH_INFO", ""), environ["REQUEST_METHOD"]
        # `/healthz` shows nothing.
        if path != "/healthz" and (refusal := refuse_page(environ)) is not None:
            return send_json(start_response, method, *refusal)
        if path == "/metrics":
            answer: Iterable[bytes] = self._metrics(environ, start_response)
            return answer
        if path in COMMANDS:
            status, page = self._obey(environ) if method == "POST" else (405, {"error": "use POST"})
        elif path not in self._pages:
            status, page = 404, {"error": "no such page", "pages": [*self._pages, "/metrics", *COMMANDS]}
        elif method not in ("GET", "HEAD"):
            status, page = 405, {"error": "use GET"}
        else:
            status, page = self._pages[path]()
        return send_json(start_response, method, status, page)

    def _ready(self) -> tuple[int, Any]:
        serving = self._health.serving
        page = {
            "status": "ready" if serving else "not ready",
            "hooks": len(self._reloader.loaded.table),
            "handlers": self._serves(),
            "problems": self._problems(),
            "store": self._store(),
            "last_reload": _outcome(self._reloader.last),
        }
        return 200 if serving else 503, page

    def _serves(self) -> str:
        """Whose hooks these are: problems are those of the last load, which may not have taken over."""
        reloader = self._reloader
        if not len(reloader.loaded.table):
            return "none serve"
        if reloader.last is not None and not reloader.last.succeeded:
            return "those of before the last reload, which failed"
        if reloader.rolled_back is not None:
            return f"those of a rollback ({reloader.rolled_back})"
        return "those of the last load"

    def _problems(self) -> list[str]:
        """What could not be loaded, when that was last tried."""
        return [redact_text(str(problem)) for problem in self._reloader.problems]

    def _hooks(self) -> tuple[int, Any]:
        table = self._reloader.loaded.table
        hooks = sorted(table, key=lambda hook: (hook.type, hook.name, hook.version))
        return 200, {
            "hooks": [
                {
                    "type": hook.type.name,
                    "name": hook.name,
                    "api": hook.api_id,
                    "version": hook.version or None,
                    "style": hook.style,
                    "async": hook.is_async,
                    "source": str(hook.source),
                }
                for hook in hooks
            ],
            "routes": [
                {
                    "version": route.name,
                    "weight_percent": route.weight_percent,
                    "apis": None if route.apis is None else sorted(route.apis),
                    "handlers": [str(folder) for folder in route.folders],
                    "key_headers": list(route.key_headers),
                }
                for route in (table.routes if isinstance(table, RoutedTable) else ())
            ],
            "rolled_back": self._reloader.rolled_back,
            "problems": self._problems(),
            "last_reload": _outcome(self._reloader.last),
        }

    def _obey(self, environ: WSGIEnvironment) -> tuple[int, Any]:
        if (refusal := refuse_command(environ)) is not None:
            return refusal
        try:
            asked = parse_qs(environ.get("QUERY_STRING", ""))
            if environ["PATH_INFO"] == "/rollback":
                return self._take_rollback(asked.get("to", [""])[0])
            force = asked.get("force", ["0"])[0]
            if force not in ("0", "1"):
                return 400, {"error": "force: expected 0 or 1"}
            outcome = self._reload("admin", force == "1").result(_COMMAND_TIMEOUT_S)
        except FutureTimeout:
            return 504, {"error": f"it took longer than {_COMMAND_TIMEOUT_S:g} s"}
        return 200 if outcome.succeeded else 409, _outcome(outcome)

    def _take_rollback(self, to: str) -> tuple[int, Any]:
        if to and to not in list(RollbackTo):
            return 400, {"error": f"to: expected one of {', '.join(RollbackTo)}"}
        rollback = self._roll_back(RollbackTo(to) if to else None).result(_COMMAND_TIMEOUT_S)
        if rollback.done is None:
            return 409, {"succeeded": False, "errors": [rollback.text]}
        return 200, {"succeeded": True, "to": rollback.done, "text": rollback.text}


def send_json(start_response: StartResponse, method: str, status: int, page: Any) -> list[bytes]:
    """Answer a request with `page` as JSON."""
    body = json.dumps(page, indent=2).encode() + b"\n"
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response(_STATUS[status], headers)
    return [b"" if method == "HEAD" else body]


def _outcome(outcome: Outcome | None) -> Any:
    if outcome is None:
        return None
    return {
        "succeeded": outcome.succeeded,
        "errors": list(outcome.errors),
        "hooks": outcome.hooks,
        "reason": outcome.reason,
        "at_s": outcome.at_s,
        "removed": list(outcome.removed),
        "warnings": list(outcome.warnings),
    }
