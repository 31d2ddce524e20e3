"""Events: what the gateway tells the functions that the API definition names."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

from coprocess.desk.tyk.simulator.definition import ApiDefinition
from coprocess.desk.tyk.simulator.request import GatewayRequest


def go_time(now: float) -> str:
    """Go's `time.Time.String` in UTC; trailing zeros of the fraction are not written."""
    seconds = int(now)
    # The fraction alone: a float does not hold today's nanoseconds.
    fraction = min(round((now - seconds) * 1_000_000_000), 999_999_999)
    text = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))
    decimals = f".{fraction:09d}".rstrip("0").rstrip(".")
    return f"{text}{decimals} +0000 UTC"


def payloads(
    definition: ApiDefinition, event: str, message: str, key: str, request: GatewayRequest, now: float
) -> list[dict[str, Any]]:
    """One payload for each function that hears of `event`; the request is the one as hooks left it."""
    return [
        {
            "message": {
                "Type": event,
                "Meta": {
                    "Message": message,
                    "OriginatingRequest": base64.b64encode(request.raw()).decode(),
                    "Path": request.url.decoded_path,
                    "Origin": request.real_ip(),
                    "Key": key,
                },
                "TimeStamp": go_time(now),
            },
            "handler_name": name,
            "spec": {"APIID": definition.api_id, "OrgID": definition.org_id},
        }
        for name in definition.event_handlers.get(event, ())
    ]


def as_json(payload: dict[str, Any]) -> str:
    # A byte that is not UTF-8 becomes U+FFFD in Go's JSON.
    clean = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    return clean.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
