"""An API definition, of either form: what it says, each value with its place in the document.

Here the two forms are read, and nowhere else. Nothing is judged but kinds: the simulator takes its view of an
API from this, the doctor its findings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from coprocess.api.moments import HookType
from coprocess.desk.tyk.fields import Field

#: Of a definition and a bundle's manifest: the lists of hooks, in the order in which the gateway runs them.
LISTS = {
    HookType.Pre: "pre",
    HookType.PostKeyAuth: "post_key_auth",
    HookType.Post: "post",
    HookType.Response: "response",
}
#: The one hook that authenticates.
AUTH = "auth_check"
#: What calls plugins, of the listeners of events.
PLUGIN_HANDLER = "cp_dynamic_handler"
WEBHOOK_HANDLER = "eh_web_hook_handler"
#: What the gateway has ID extractors for.
EXTRACTOR_SOURCES = ("header", "form", "body")
EXTRACTOR_WAYS = ("value", "regex", "xpath")


@dataclass(frozen=True, slots=True)
class HookUse:
    """A hook that is named, and not disabled. Its name may be empty."""

    type: HookType
    name: Field
    raw_body_only: bool
    require_session: bool


@dataclass(frozen=True, slots=True)
class ExtractorUse:
    """An ID extractor that is on. What is in its configuration is read where it is used."""

    place: Field
    source: Field
    way: Field
    header_name: Field
    param_name: Field
    regex: Field
    regex_match_index: Field
    xpath: Field


@dataclass(frozen=True, slots=True)
class Listener:
    """A listener of an event."""

    event: str
    #: The listeners of that event.
    place: Field
    #: `cp_dynamic_handler`, for plugins.
    kind: Field
    #: What it is told: a function's name, a webhook's target.
    meta: Field

    @property
    def function(self) -> Field:
        return self.meta["name"]


@dataclass(frozen=True, slots=True)
class Definition:
    """One API, as it is written. A hook that the gateway would not call for the API is here, too."""

    is_oas: bool
    name: Field
    api_id: Field
    org_id: Field
    listen_path: Field
    domain: Field
    target_url: Field
    keyless: Field
    is_keyless: bool
    #: The switch of plugin authentication.
    plugin_auth: Field
    #: Whether CustomKeyCheck decides who may pass.
    is_plugin_auth: bool
    #: Absent where none is named.
    auth_header: Field
    driver: Field
    #: Absent where it is disabled.
    bundle: Field
    config_data: Field
    hooks: tuple[HookUse, ...] = ()
    extractor: ExtractorUse | None = None
    strips_listen_path: bool = False
    preserves_host: bool = False
    has_no_rate_limit: bool = False
    has_no_quota: bool = False
    #: Of events that reach plugins: classic only.
    events: tuple[Listener, ...] = ()
    #: OAS only: the listeners, which are webhooks, scripts and logs.
    listeners: tuple[Field, ...] = ()
    #: OAS only: listeners of the classic form, which is not read there.
    misplaced_events: tuple[Listener, ...] = ()
    #: A classic form that the gateway made of an OAS definition, which lies beside it.
    made_from_oas: bool = False

    def __post_init__(self) -> None:
        for value in (self.name, self.api_id, self.org_id, self.listen_path, self.domain, self.target_url):
            value.text()
        for value in (self.auth_header, self.driver, self.bundle):
            value.text()
        self.config_data.members()

    def hooks_of(self, hook_type: HookType) -> Iterator[HookUse]:
        return (hook for hook in self.hooks if hook.type is hook_type)


def read_definition(root: Field) -> Definition:
    """The definition of either form. Raises ConfigError naming the place of a value of the wrong kind."""
    if not isinstance(root.value, dict):
        raise root.error("must be an object")
    if root["api_definition"]:  # As the Dashboard exports it.
        root = root["api_definition"]
    if root["x-tyk-api-gateway"]:
        # Imported here: that module builds a Definition.
        from coprocess.desk.tyk.definition_oas import read_oas

        return read_oas(root)
    return _read_classic(root)


def _read_classic(root: Field) -> Definition:
    middleware, proxy = root["custom_middleware"], root["proxy"]
    is_without_bundle = root["custom_middleware_bundle_disabled"].flag()
    auth_header = root["auth_configs"]["coprocess"]["auth_header_name"]
    config_data = root["config_data"]
    return Definition(
        is_oas=False,
        name=root["name"],
        api_id=root["api_id"],
        org_id=root["org_id"],
        listen_path=proxy["listen_path"],
        domain=root["domain"],
        target_url=proxy["target_url"],
        keyless=root["use_keyless"],
        is_keyless=root["use_keyless"].flag(),
        plugin_auth=root["custom_plugin_auth_enabled"],
        is_plugin_auth=root["custom_plugin_auth_enabled"].flag() or root["enable_coprocess_auth"].flag(),
        auth_header=auth_header if auth_header.text() else root["auth"]["auth_header_name"],
        driver=middleware["driver"],
        bundle=root["custom_middleware_bundle"].absent_if(is_without_bundle),
        config_data=config_data.absent_if(root["config_data_disabled"].flag()),
        hooks=classic_hooks(middleware),
        extractor=_classic_extractor(middleware["id_extractor"]),
        strips_listen_path=proxy["strip_listen_path"].flag(),
        preserves_host=proxy["preserve_host_header"].flag(),
        has_no_rate_limit=root["disable_rate_limit"].flag(),
        has_no_quota=root["disable_quota"].flag(),
        events=classic_events(root["event_handlers"]["events"]),
        made_from_oas=root["is_oas"].flag(),
    )


def classic_hooks(middleware: Field) -> tuple[HookUse, ...]:
    """The hooks in `custom_middleware`, of a definition or a manifest. Raises ConfigError as above."""
    found = [(hook_type, hook) for hook_type, name in LISTS.items() for hook in middleware[name]]
    # Go writes an empty structure where there is none.
    if middleware[AUTH]["name"].text():
        found.append((HookType.CustomKeyCheck, middleware[AUTH]))
    return hook_uses(
        (hook_type, not hook["disabled"].flag(), hook["name"], hook["raw_body_only"], hook["require_session"])
        for hook_type, hook in found
    )


def hook_uses(found: Iterable[tuple[HookType, bool, Field, Field, Field]]) -> tuple[HookUse, ...]:
    """Of type, whether it is on, name, `raw_body_only` and `require_session`."""
    uses = []
    for hook_type, is_on, name, raw_body_only, require_session in found:
        name.text()
        use = HookUse(hook_type, name, raw_body_only.flag(), require_session.flag())
        if is_on:
            uses.append(use)
    return tuple(uses)


def _classic_extractor(extractor: Field) -> ExtractorUse | None:
    way, config = extractor["extract_with"], extractor["extractor_config"]
    if extractor["disabled"].flag() or not way.text():
        return None
    extractor["extract_from"].text()
    param_name = config["param_name"]
    return ExtractorUse(
        extractor,
        extractor["extract_from"],
        way,
        header_name=config["header_name"],
        param_name=param_name if param_name else config["form_param_name"],
        regex=config["regex_expression"],
        regex_match_index=config["regex_match_index"],
        xpath=config["xpath_expression"],
    )


def classic_events(events: Field) -> tuple[Listener, ...]:
    """The listeners in `event_handlers.events`, of a definition or tyk.conf. Raises ConfigError as above."""
    found = tuple(
        Listener(event, listeners, listener["handler_name"], listener["handler_meta"])
        for event, listeners in events.members().items()
        for listener in listeners
    )
    for listener in found:
        listener.kind.text()
        listener.function.text()
    return found
