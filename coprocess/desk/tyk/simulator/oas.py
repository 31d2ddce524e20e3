"""The OAS form of an API definition: what stands under `x-tyk-api-gateway`."""

from __future__ import annotations

from coprocess.desk.tyk.definition import (
    ApiDefinition,
    HookDefinition,
    IdExtractorDefinition,
    check_driver,
    check_extractor,
    check_target,
    has_hooks,
    object_value,
)
from coprocess.desk.tyk.fields import Field


def _hook(hook: Field) -> HookDefinition | None:
    if not hook["enabled"].flag() or not hook["functionName"].text():
        return None
    return HookDefinition(
        hook["functionName"].text(), hook["rawBodyOnly"].flag(), hook["requireSession"].flag()
    )


def _hooks(middleware: Field, plural: str) -> tuple[HookDefinition, ...]:
    # Older definitions have {"prePlugin": {"plugins": […]}} for {"prePlugins": […]}.
    hooks = middleware[plural] or middleware[plural.removesuffix("s")]["plugins"]
    return tuple(hook for hook in map(_hook, hooks) if hook)


def _extractor(extractor: Field) -> IdExtractorDefinition | None:
    if not extractor["enabled"].flag() or not extractor["with"].text():
        return None
    config = extractor["config"]
    return check_extractor(
        IdExtractorDefinition(
            extractor["source"].text(),
            extractor["with"].text(),
            config["headerName"].text(),
            config["formParamName"].text(),
            config["regexp"].text(),
            config["regexpMatchIndex"].number(),
            config["xPathExp"].text(),
        ),
        extractor["source"],
        extractor["with"],
    )


def parse_oas(extension: Field) -> ApiDefinition:
    """From the gateway's extension. Events are not in it: that form cannot name a plugin's handlers."""
    info, server = extension["info"], extension["server"]
    middleware = extension["middleware"]["global"]
    plugins = middleware["pluginConfig"]
    authentication = server["authentication"]
    custom = authentication["custom"]
    protected = authentication["enabled"].flag()
    plugin_auth = protected and custom["enabled"].flag()
    data, bundle = plugins["data"], plugins["bundle"]
    definition = ApiDefinition(
        name=info["name"].text(),
        api_id=info["id"].required(),
        org_id=info["orgId"].text(),
        listen_path=server["listenPath"]["value"].required(),
        target_url=check_target(extension["upstream"]["url"]),
        strip_listen_path=server["listenPath"]["strip"].flag(),
        preserve_host_header=extension["upstream"]["preserveHostHeader"]["enabled"].flag(),
        keyless=not protected,
        plugin_auth=plugin_auth,
        auth_header=custom["header"]["name"].text() or "Authorization",
        pre=_hooks(middleware, "prePlugins"),
        auth_check=_hook(custom["config"]) if plugin_auth else None,
        post_key_auth=_hooks(middleware, "postAuthenticationPlugins"),
        post=_hooks(middleware, "postPlugins"),
        response=_hooks(middleware, "responsePlugins"),
        id_extractor=_extractor(custom["config"]["idExtractor"]) if plugin_auth else None,
        config_data=object_value(data["value"]) if data["enabled"].flag() else {},
        bundle=bundle["path"].text() if bundle["enabled"].flag() else "",
        disable_rate_limit=middleware["skipRateLimit"].flag(),
        disable_quota=middleware["skipQuotas"].flag(),
    )
    check_driver(plugins["driver"], needed=has_hooks(definition))
    return definition
