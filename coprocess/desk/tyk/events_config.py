"""What to write at the gateway so that its events reach the `@Event` functions that are loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from coprocess.api.moments import HookType
from coprocess.desk.tyk.definition import PLUGIN_HANDLER, WEBHOOK_HANDLER
from coprocess.desk.tyk.doctor.events import EVENTS, OF_THE_MONITOR, OF_TYK_CONF
from coprocess.gateways.tyk.webhook import TEMPLATE
from coprocess.loading.hooks import Hook
from coprocess.process.webhooks import PREFIX, SECRET_HEADER

#: Where the template lies at the gateway, if the user says nothing.
TEMPLATE_PATH = "templates/coprocess_event.json"
#: As a definition names the secret: the gateway reads it from its own environment.
SECRET_REFERENCE = "env://COPROCESS_EVENTS_SECRET"  # noqa: S105 - no secret, but where it is
#: In tyk.conf such a reference is not resolved for certain.
SECRET_ITSELF = "THE SECRET"  # noqa: S105 - for the user to replace

#: What gRPC carries from a classic definition.
OVER_GRPC = tuple(event for event in EVENTS if event not in (*OF_TYK_CONF, OF_THE_MONITOR))
#: The OAS schema refuses this trigger.
_NOT_IN_OAS = "OAuth2ScopeCheckFailed"


def events_config(
    hooks: Iterable[Hook],
    url: str,
    *,
    events: Iterable[str] = (),
    api_id: str = "API_ID",
    org_id: str = "ORG_ID",
    template_path: str = TEMPLATE_PATH,
) -> dict[str, Any]:
    """The template, the header, and the parts of three files. Webhooks are only where gRPC carries nothing.

    `url` is the listener's, without a path. `events` empty: all. `classic` and `oas` are for `api_id`; `apis`
    has the same for each other API with handlers of its own. tyk.conf, which is for all, has none of those.
    """
    wanted = tuple(events) or EVENTS
    # Names of handlers.
    of_all: dict[str, None] = {}
    of_one: dict[str, dict[str, None]] = {}
    for hook in hooks:
        if hook.type is HookType.Event:
            names = of_all if hook.api_id is None else of_one.setdefault(hook.api_id, {})
            names[hook.name] = None

    def target(name: str, **about: str) -> str:
        return f"{url.rstrip('/')}{PREFIX}{quote(name, safe='')}" + (f"?{urlencode(about)}" if about else "")

    def webhook(name: str) -> dict[str, Any]:
        return {
            "method": "POST",
            "target_path": target(name),
            "template_path": template_path,
            "header_map": {SECRET_HEADER: SECRET_ITSELF},
            "event_timeout": 1,
        }

    def oas_webhook(event: str, name: str, api: str) -> dict[str, Any]:
        return {
            "enabled": True,
            "type": "webhook",
            "trigger": event,
            "name": f"{name} {event}",
            "url": target(name, api_id=api, org_id=org_id),
            "method": "POST",
            "bodyTemplate": template_path,
            "headers": [{"name": SECRET_HEADER, "value": SECRET_REFERENCE}],
            "cooldownPeriod": "1s",
        }

    def each(of: Mapping[str, None], known: Iterable[str], make: Any) -> Mapping[str, Any]:
        return {event: [make(name) for name in of] for event in known if event in wanted and of}

    def parts_of(api: str) -> dict[str, Any]:
        """Of the definitions of one API: what is for all, and what is for that one."""
        of = of_all | of_one.get(api, {})
        over_grpc = each(
            of, OVER_GRPC, lambda name: {"handler_name": PLUGIN_HANDLER, "handler_meta": {"name": name}}
        )
        oas = [
            oas_webhook(event, name, api)
            for event in OVER_GRPC
            if event in wanted and event != _NOT_IN_OAS
            for name in of
        ]
        return {
            "classic": {"custom_middleware": {"driver": "grpc"}, "event_handlers": {"events": over_grpc}},
            "oas": {"x-tyk-api-gateway": {"server": {"eventHandlers": oas}}},
        }

    of_conf = each(
        of_all, OF_TYK_CONF, lambda name: {"handler_name": WEBHOOK_HANDLER, "handler_meta": webhook(name)}
    )
    conf: dict[str, Any] = {"event_handlers": {"events": of_conf}} if of_conf else {}
    if OF_THE_MONITOR in wanted and of_all:
        # It has room for one.
        conf["monitor"] = {
            "enable_trigger_monitors": True,
            "monitor_user_keys": True,
            "configuration": webhook(next(iter(of_all))),
        }
    return {
        "template": TEMPLATE,
        "template_path": template_path,
        "header": SECRET_HEADER,
        **parts_of(api_id),
        "tyk_conf": conf,
        "apis": {api: parts_of(api) for api in of_one if api != api_id},
    }
