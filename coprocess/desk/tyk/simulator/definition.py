"""The part of an API definition that a plugin can see the effects of, checked: what the simulator acts by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from coprocess.api.moments import HookType
from coprocess.desk.json_files import read_json
from coprocess.desk.tyk.definition import (
    EXTRACTOR_SOURCES,
    EXTRACTOR_WAYS,
    PLUGIN_HANDLER,
    Definition,
    ExtractorUse,
    Listener,
    read_definition,
)
from coprocess.desk.tyk.fields import Field


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

    @property
    def has_hooks(self) -> bool:
        return bool(self.pre or self.auth_check or self.post_key_auth or self.post or self.response)

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
        return _view(read_definition(Field(document, source)))


def _view(written: Definition) -> ApiDefinition:
    """What the gateway does by it. Raises ConfigError for what it would not load, or call no hook by."""

    def hooks(hook_type: HookType) -> tuple[HookDefinition, ...]:
        return tuple(
            HookDefinition(hook.name.text(), hook.raw_body_only, hook.require_session)
            for hook in written.hooks_of(hook_type)
            if hook.name.text()
        )

    is_auth = written.is_plugin_auth
    definition = ApiDefinition(
        name=written.name.text(),
        api_id=written.api_id.required(),
        org_id=written.org_id.text(),
        listen_path=written.listen_path.required(),
        target_url=_checked_target(written.target_url),
        strip_listen_path=written.strips_listen_path,
        preserve_host_header=written.preserves_host,
        keyless=written.is_keyless,
        plugin_auth=is_auth,
        auth_header=written.auth_header.text() or "Authorization",
        pre=hooks(HookType.Pre),
        auth_check=next(iter(hooks(HookType.CustomKeyCheck)), None) if is_auth else None,
        post_key_auth=hooks(HookType.PostKeyAuth),
        post=hooks(HookType.Post),
        response=hooks(HookType.Response),
        id_extractor=_checked_extractor(written.extractor) if is_auth and written.extractor else None,
        config_data={name: member.value for name, member in written.config_data.members().items()},
        bundle=written.bundle.text(),
        disable_rate_limit=written.has_no_rate_limit,
        disable_quota=written.has_no_quota,
        event_handlers=_event_handlers(written.events),
    )
    if definition.has_hooks and written.driver.text() not in ("grpc", "python"):
        # Without a driver that this simulates, a real gateway would call no hook of the definition.
        driver = written.driver
        raise driver.error(f'must be "grpc" for the hooks to be called, is {driver.value!r}')
    return definition


def _checked_target(target: Field) -> str:
    """The upstream's URL, absolute."""
    try:
        parts = urlsplit(target.required())
    except ValueError as error:
        raise target.error(f"must be an absolute http URL, is {target.value!r} ({error})") from None
    if parts.scheme not in ("http", "https", "h2c") or not parts.netloc:
        raise target.error(f"must be an absolute http URL, is {target.value!r}")
    return target.text()


def _checked_extractor(written: ExtractorUse) -> IdExtractorDefinition:
    for place, known in ((written.source, EXTRACTOR_SOURCES), (written.way, EXTRACTOR_WAYS)):
        if place.text() not in known:
            raise place.error(f"must be one of {', '.join(known)}, is {place.value!r}")
    return IdExtractorDefinition(
        written.source.text(),
        written.way.text(),
        written.header_name.text(),
        written.param_name.text(),
        written.regex.text(),
        written.regex_match_index.number(),
        written.xpath.text(),
    )


def _event_handlers(listeners: Iterable[Listener]) -> dict[str, tuple[str, ...]]:
    heard: dict[str, tuple[str, ...]] = {}
    for listener in listeners:
        if listener.kind.text() == PLUGIN_HANDLER:
            heard[listener.event] = (*heard.get(listener.event, ()), listener.function.required())
    return heard
