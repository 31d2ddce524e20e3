"""The OAS form of an API definition: what stands under `x-tyk-api-gateway`."""

from __future__ import annotations

from coprocess.api.moments import HookType
from coprocess.desk.tyk.definition import (
    Definition,
    ExtractorUse,
    HookUse,
    Listener,
    classic_events,
    hook_uses,
)
from coprocess.desk.tyk.fields import Field

_LISTS = {
    HookType.Pre: "prePlugins",
    HookType.PostKeyAuth: "postAuthenticationPlugins",
    HookType.Post: "postPlugins",
    HookType.Response: "responsePlugins",
}


def read_oas(root: Field) -> Definition:
    """That form cannot name a plugin's handlers for events. Raises ConfigError as `read_definition`."""
    extension = root["x-tyk-api-gateway"]
    info, server, upstream = extension["info"], extension["server"], extension["upstream"]
    plugins = extension["middleware"]["global"]
    config = plugins["pluginConfig"]
    data, bundle = config["data"], config["bundle"]
    authentication, domain = server["authentication"], server["customDomain"]
    custom = authentication["custom"]
    is_keyless = not authentication["enabled"].flag()
    listeners = server["eventHandlers"]
    is_classic = isinstance(listeners.value, dict)
    return Definition(
        is_oas=True,
        name=info["name"],
        api_id=info["id"],
        org_id=info["orgId"],
        listen_path=server["listenPath"]["value"],
        domain=domain["name"].absent_if(not domain["enabled"].flag()),
        target_url=upstream["url"],
        keyless=authentication["enabled"],
        is_keyless=is_keyless,
        plugin_auth=custom["enabled"],
        is_plugin_auth=not is_keyless and custom["enabled"].flag(),
        auth_header=custom["header"]["name"],
        driver=config["driver"],
        bundle=bundle["path"].absent_if(not bundle["enabled"].flag()),
        config_data=data["value"].absent_if(not data["enabled"].flag()),
        hooks=_hooks(plugins, custom["config"]),
        extractor=_extractor(custom["config"]["idExtractor"]),
        strips_listen_path=server["listenPath"]["strip"].flag(),
        preserves_host=upstream["preserveHostHeader"]["enabled"].flag(),
        has_no_rate_limit=plugins["skipRateLimit"].flag(),
        has_no_quota=plugins["skipQuotas"].flag(),
        listeners=() if is_classic else tuple(listeners),
        misplaced_events=_misplaced(root, extension, listeners if is_classic else None),
    )


def _hooks(plugins: Field, auth: Field) -> tuple[HookUse, ...]:
    # Older definitions have {"prePlugin": {"plugins": […]}} for {"prePlugins": […]}.
    found = [
        (hook_type, hook)
        for hook_type, name in _LISTS.items()
        for hook in (plugins[name] or plugins[name.removesuffix("s")]["plugins"])
    ]
    if auth["functionName"].text():
        found.append((HookType.CustomKeyCheck, auth))
    return hook_uses(
        (hook_type, hook["enabled"].flag(), hook["functionName"], hook["rawBodyOnly"], hook["requireSession"])
        for hook_type, hook in found
    )


def _extractor(extractor: Field) -> ExtractorUse | None:
    way, config = extractor["with"], extractor["config"]
    if not extractor["enabled"].flag() or not way.text():
        return None
    extractor["source"].text()
    return ExtractorUse(
        extractor,
        extractor["source"],
        way,
        header_name=config["headerName"],
        param_name=config["formParamName"],
        regex=config["regexp"],
        regex_match_index=config["regexpMatchIndex"],
        xpath=config["xPathExp"],
    )


def _misplaced(root: Field, extension: Field, listeners: Field | None) -> tuple[Listener, ...]:
    """The classic form, which this one does not know, wherever people put it."""
    places = [root, extension, extension["server"], extension["middleware"]["global"]]
    found = [listener for place in places for listener in classic_events(place["event_handlers"]["events"])]
    return (*found, *(classic_events(listeners["events"]) if listeners is not None else ()))
