"""A trial for machines. The keys are documented in docs/testing.md, and stay."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from coprocess.cli.output import body_as_json

if TYPE_CHECKING:
    from coprocess.desk.tyk.simulator import HttpResponse, UpstreamReply, UpstreamRequest
    from coprocess.desk.tyk.trial import EventTrial, HookTrial, Trial


def trial_as_dict(trial: Trial, *, problems: Iterable[str], definition_file: str | None) -> dict[str, Any]:
    exchange = trial.exchange
    definition = trial.definition
    return {
        "ok": trial.ok,
        "ms": _ms(trial.seconds),
        "request": {"method": trial.method, "target": trial.target},
        "definition": {"name": definition.name, "api_id": definition.api_id, "file": definition_file},
        "not_loaded": list(problems),
        "hooks": [_hook(hook) for hook in trial.hooks],
        "events": [_event(event) for event in trial.events],
        "upstream": {
            "request": _upstream_request(exchange.upstream_request),
            "reply": _response(exchange.upstream_reply),
            "error": trial.upstream_error or None,
        },
        "response": _response(exchange.http_response),
        "dropped": exchange.dropped,
        "failure": exchange.failure,
        "findings": [finding.as_dict() for finding in trial.findings],
    }


def _hook(hook: HookTrial) -> dict[str, Any]:
    return {
        "type": hook.type,
        "name": hook.name,
        "source": str(hook.source) if hook.source else None,
        "style": hook.style or None,
        "ms": _ms(hook.seconds),
        "status": hook.status,
        "error": hook.error,
        "traceback": hook.traceback,
        "changes": _plain(hook.changes),
        "ignored": _plain(hook.ignored),
        "output": hook.output,
    }


def _event(event: EventTrial) -> dict[str, Any]:
    return {
        "type": event.type,
        "handler": event.handler,
        "source": str(event.source) if event.source else None,
        "triggered_by_handler": event.is_local,
        "ran": event.ran,
        "error": event.error,
        "traceback": event.traceback,
        "ms": _ms(event.seconds),
        "output": event.output,
        "payload": dict(event.event),
    }


def _upstream_request(request: UpstreamRequest | None) -> dict[str, Any] | None:
    if request is None:
        return None
    headers = [list(pair) for pair in request.headers]
    return {"method": request.method, "url": request.url, "headers": headers, **body_as_json(request.body)}


def _response(response: HttpResponse | UpstreamReply | None) -> dict[str, Any] | None:
    if response is None:
        return None
    headers = [list(pair) for pair in response.headers]
    return {"status": response.status, "headers": headers, **body_as_json(response.body)}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
