"""Events that the gateway sends as webhooks: their template, and gRPC's payload out of their body."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from coprocess.errors import BadMessage

#: The one template that carries all of every event. Within the element, the gateway's engine writes JSON;
#: elsewhere it would escape it as HTML.
TEMPLATE = '<script type="application/json">{{.}}</script>'

_WRAPPER = re.compile(r"<script\b[^<>]*>(.*)</script\s*>", re.DOTALL | re.IGNORECASE)
_DEFAULT_TEMPLATE = re.compile(r'\{\s*"event"\s*:')
_MESSAGE = ("Type", "Meta", "TimeStamp")
_EXPECTED = f"Expected: the body that this template makes: {TEMPLATE}"


def webhook_payload(handler: str, body: bytes, about: Mapping[str, str]) -> str:
    """The payload that gRPC would have had for the event in `body`.

    That is made by TEMPLATE, or is the message, or the whole payload, as plain JSON. `about` may have
    `api_id` and `org_id`, which the message has not. Raises BadMessage.
    """
    text = body.decode("utf-8-sig", "replace").strip()
    if (wrapped := _WRAPPER.fullmatch(text)) is not None:
        text = wrapped[1].strip()
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise _refused(text) from None
    named = (("APIID", about.get("api_id")), ("OrgID", about.get("org_id")))
    spec: dict[str, Any] = {key: value for key, value in named if value}
    if isinstance(content, dict) and _is_message(content.get("message")):
        own = content.get("spec")
        spec = {**(own if isinstance(own, dict) else {}), **spec}
        return json.dumps({**content, "handler_name": handler, "spec": spec})
    if not _is_message(content):
        raise _refused(text)
    # As it came, to the letter.
    return f'{{"message": {text}, "handler_name": {json.dumps(handler)}, "spec": {json.dumps(spec)}}}'


def _is_message(content: Any) -> bool:
    return isinstance(content, dict) and all(name in content for name in _MESSAGE)


def _refused(text: str) -> BadMessage:
    """No word of the body is in it: that has keys of callers."""
    if not text:
        return BadMessage(f"the webhook has no body. {_EXPECTED}")
    if _DEFAULT_TEMPLATE.match(text):
        return BadMessage(
            "the body is made by the gateway's own template, default_webhook.json, which leaves out most of "
            "the event: template_path is not set, or its file is missing or does not parse. " + _EXPECTED
        )
    return BadMessage(f"the body is no event: no JSON with {', '.join(_MESSAGE)}. {_EXPECTED}")
