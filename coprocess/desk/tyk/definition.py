"""The part of an API definition that a plugin can see the effects of, from either of its two forms."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from coprocess.desk.json_files import read_json
from coprocess.desk.tyk.fields import Field

_EVENT_HANDLER = "cp_dynamic_handler"
_SOURCES = ("header", "form", "body")
_WAYS = ("value", "regex", "xpath")


@dataclass(frozen=True, slots=True)
class HookDefinition:
    """One plugin function. `require_session` is read and, as in the gateway, changes nothing."""

    name: str
    raw_body_only: bool = False
    require_session: bool = False


@dataclass(frozen=True, slots=True)
class IdExtractorDefinition:
    """Where the gateway finds who calls, before it asks the plugin."""

    source: str
    way: str
    header_name: str = ""
    param_name: str = ""
    regex: str = ""
    regex_match_index: int = 0
    xpath: str = ""


@dataclass(frozen=True, slots=True)
class ApiDefinition:
    """One API. Disabled hooks are not in it."""

    name: str
    api_id: str
    org_id: str
    listen_path: str
    target_url: str
    strip_listen_path: bool = False
    preserve_host_header: bool = False
    keyless: bool = False
    #: Whether CustomKeyCheck decides who may pass.
    plugin_auth: bool = False
    auth_header: str = "Authorization"
    pre: tuple[HookDefinition, ...] = ()
    auth_check: HookDefinition | None = None
    post_key_auth: tuple[HookDefinition, ...] = ()
    post: tuple[HookDefinition, ...] = ()
    response: tuple[HookDefinition, ...] = ()
    id_extractor: IdExtractorDefinition | None = None
    config_data: dict[str, Any] = field(default_factory=dict)
    bundle: str = ""
    disable_rate_limit: bool = False
    disable_quota: bool = False
    #: Event → names of the functions that hear of it.
    event_handlers: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def listens_on(self, path: str) -> bool:
        """Whether a request for this path, decoded, is this API's."""
        listen = self.listen_path.rstrip("/")
        return path == listen or path.startswith(f"{listen}/")

    @classmethod
    def load(cls, path: str | Path) -> ApiDefinition:
        """From a JSON file. Raises ConfigError naming the file and the place in it."""
        return cls.parse(read_json(Path(path)), source=str(path))

    @classmethod
    def parse(cls, document: Any, *, source: str = "API definition") -> ApiDefinition:
        """From a parsed document, classic or OAS (told apart by `x-tyk-api-gateway`).

        Hooks written for the driver `python` are simulated as `grpc` calls: that is where they are
        to go. What no hook can see (caching, versions, transforms, other ways to authenticate) is
        not read.
        """
        root = Field(document, source)
        if not isinstance(document, dict):
            raise root.error("must be an object")
        if "x-tyk-api-gateway" in document:
            # Imported here: that module builds an ApiDefinition.
            from coprocess.desk.tyk.simulator.oas import parse_oas

            return parse_oas(root["x-tyk-api-gateway"])
        return _parse_classic(root)


def check_target(target: Field) -> str:
    """The upstream's URL, absolute."""
    try:
        parts = urlsplit(target.required())
    except ValueError as error:
        raise target.error(f"must be an absolute http URL, is {target.value!r} ({error})") from None
    if parts.scheme not in ("http", "https", "h2c") or not parts.netloc:
        raise target.error(f"must be an absolute http URL, is {target.value!r}")
    return target.text()


def check_driver(driver: Field, *, needed: bool) -> None:
    """Without a driver that this simulates, a real gateway would call no hook of the definition."""
    if needed and driver.text() not in ("grpc", "python"):
        raise driver.error(f'must be "grpc" for the hooks to be called, is {driver.value!r}')


def check_extractor(extractor: IdExtractorDefinition, source: Field, way: Field) -> IdExtractorDefinition:
    if extractor.source not in _SOURCES:
        raise source.error(f"must be one of {', '.join(_SOURCES)}, is {extractor.source!r}")
    if extractor.way not in _WAYS:
        raise way.error(f"must be one of {', '.join(_WAYS)}, is {extractor.way!r}")
    return extractor


def object_value(data: Field) -> dict[str, Any]:
    return {name: member.value for name, member in data.members().items()}


def _classic_hook(hook: Field) -> HookDefinition | None:
    if hook["disabled"].flag() or not hook["name"].text():
        return None
    return HookDefinition(hook["name"].text(), hook["raw_body_only"].flag(), hook["require_session"].flag())


def _classic_hooks(hooks: Field) -> tuple[HookDefinition, ...]:
    return tuple(hook for hook in map(_classic_hook, hooks) if hook)


def _classic_extractor(extractor: Field) -> IdExtractorDefinition | None:
    if extractor["disabled"].flag() or not extractor["extract_with"].text():
        return None
    config = extractor["extractor_config"]
    return check_extractor(
        IdExtractorDefinition(
            extractor["extract_from"].text(),
            extractor["extract_with"].text(),
            config["header_name"].text(),
            config["param_name"].text() or config["form_param_name"].text(),
            config["regex_expression"].text(),
            config["regex_match_index"].number(),
            config["xpath_expression"].text(),
        ),
        extractor["extract_from"],
        extractor["extract_with"],
    )


def _classic_event_handlers(events: Field) -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {}
    for event, handlers in events.members().items():
        heard = tuple(
            handler["handler_meta"]["name"].required()
            for handler in handlers
            if handler["handler_name"].text() == _EVENT_HANDLER
        )
        if heard:
            names[event] = heard
    return names


def _parse_classic(root: Field) -> ApiDefinition:
    middleware, proxy = root["custom_middleware"], root["proxy"]
    plugin_auth = root["custom_plugin_auth_enabled"].flag() or root["enable_coprocess_auth"].flag()
    definition = ApiDefinition(
        name=root["name"].text(),
        api_id=root["api_id"].required(),
        org_id=root["org_id"].text(),
        listen_path=proxy["listen_path"].required(),
        target_url=check_target(proxy["target_url"]),
        strip_listen_path=proxy["strip_listen_path"].flag(),
        preserve_host_header=proxy["preserve_host_header"].flag(),
        keyless=root["use_keyless"].flag(),
        plugin_auth=plugin_auth,
        auth_header=root["auth_configs"]["coprocess"]["auth_header_name"].text()
        or root["auth"]["auth_header_name"].text()
        or "Authorization",
        pre=_classic_hooks(middleware["pre"]),
        auth_check=_classic_hook(middleware["auth_check"]) if plugin_auth else None,
        post_key_auth=_classic_hooks(middleware["post_key_auth"]),
        post=_classic_hooks(middleware["post"]),
        response=_classic_hooks(middleware["response"]),
        id_extractor=_classic_extractor(middleware["id_extractor"]) if plugin_auth else None,
        config_data={} if root["config_data_disabled"].flag() else object_value(root["config_data"]),
        bundle=root["custom_middleware_bundle"].text(),
        disable_rate_limit=root["disable_rate_limit"].flag(),
        disable_quota=root["disable_quota"].flag(),
        event_handlers=_classic_event_handlers(root["event_handlers"]["events"]),
    )
    check_driver(middleware["driver"], needed=has_hooks(definition))
    return definition


def has_hooks(definition: ApiDefinition) -> bool:
    return bool(
        definition.pre
        or definition.auth_check
        or definition.post_key_auth
        or definition.post
        or definition.response
    )
