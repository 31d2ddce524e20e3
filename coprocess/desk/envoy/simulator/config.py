"""The configuration of the simulated Envoy: what the filters, routes and limits of a listener say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from coprocess.desk.envoy.fields import Fields, seconds_or
from coprocess.desk.envoy.simulator.filter_config import ExtAuthzConfig, ExtProcConfig, SetMetadataConfig
from coprocess.errors import ConfigError

EXT_PROC_TYPE = "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor"
EXT_AUTHZ_TYPE = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"
SET_METADATA_TYPE = "envoy.extensions.filters.http.set_metadata.v3.Config"
ROUTER_TYPE = "envoy.extensions.filters.http.router.v3.Router"
_PREFIX = "type.googleapis.com/"
_WRAPPER_TYPE = "envoy.config.route.v3.FilterConfig"

DEFAULT_BUFFER_LIMIT_BYTES = 1024 * 1024
DEFAULT_ROUTE_TIMEOUT_S = 15.0


FilterSettings = ExtProcConfig | ExtAuthzConfig | SetMetadataConfig

_READERS: dict[str, Any] = {
    EXT_PROC_TYPE: ExtProcConfig.read,
    EXT_AUTHZ_TYPE: ExtAuthzConfig.read,
    SET_METADATA_TYPE: SetMetadataConfig.read,
}


@dataclass(frozen=True, slots=True)
class FilterConfig:
    """One entry of `http_filters`."""

    name: str
    settings: FilterSettings

    def on_route(self, route: Route | None, vhost: PerFilter) -> FilterSettings:
        """The settings for a request on this route."""
        settings = self.settings
        layers = [vhost] if route is None else [vhost, route.per_filter]
        for layer in layers:
            given = layer.get(self.name)
            if given is None:
                continue
            fields = Fields(given, f"typed_per_filter_config[{self.name}]")
            kind = fields.text("@type").removeprefix(_PREFIX)
            if kind == _WRAPPER_TYPE:
                if fields.flag("disabled"):
                    settings = replace(settings, is_disabled=True)
                    continue
                inner = fields.raw("config")
                if inner is None:
                    continue
                fields = Fields(inner, f"{fields.where}.config")
                fields.ignore("@type")
            settings = settings.on_route(fields)
        return settings


PerFilter = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Route:
    name: str
    prefix: str | None = None
    path: str | None = None
    regex: re.Pattern[str] | None = None
    cluster: str = ""
    timeout_s: float = DEFAULT_ROUTE_TIMEOUT_S
    #: Status and body.
    direct_response: tuple[int, bytes] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    per_filter: PerFilter = field(default_factory=dict)

    def matches(self, target: str) -> bool:
        path = target.partition("?")[0]
        if self.regex is not None:
            return self.regex.fullmatch(path) is not None
        if self.path is not None:
            return path == self.path
        return path.startswith(self.prefix or "")

    @classmethod
    def read(cls, fields: Fields) -> Route:
        match, action = fields.message("match"), fields.message("route")
        direct, metadata = fields.message("direct_response"), fields.message("metadata")
        if match is None:
            raise ConfigError(f"{fields.where}: match is not set")
        route = cls(
            name=fields.text("name"),
            prefix=match.text("prefix") if "prefix" in match else None,
            path=match.text("path") if "path" in match else None,
            regex=match.pattern("safe_regex"),
            cluster=action.text("cluster") if action else "",
            timeout_s=seconds_or(action.seconds("timeout") if action else None, DEFAULT_ROUTE_TIMEOUT_S),
            direct_response=None if direct is None else _direct_response(direct),
            metadata={} if metadata is None else dict(metadata.named("filter_metadata")),
            per_filter=dict(fields.named("typed_per_filter_config")),
        )
        for part in (match, action, metadata, fields):
            if part is not None:
                part.finish()
        return route


def _direct_response(fields: Fields) -> tuple[int, bytes]:
    body = fields.message("body")
    status = fields.whole("status")
    fields.finish()
    if body is None:
        return status, b""
    content = body.data("inline_bytes") if "inline_bytes" in body else body.text("inline_string").encode()
    body.finish()
    return status, content


@dataclass(frozen=True, slots=True)
class EnvoyConfig:
    """One listener with one virtual host."""

    filters: tuple[FilterConfig, ...]
    routes: tuple[Route, ...]
    vhost: PerFilter = field(default_factory=dict)
    upgrades: frozenset[str] = frozenset()
    buffer_limit_bytes: int = DEFAULT_BUFFER_LIMIT_BYTES
    #: As `1.40`. Before 1.37, servers are not sent what Envoy answers itself.
    version: tuple[int, int] = (1, 40)

    @property
    def processes_local_replies(self) -> bool:
        return self.version >= (1, 37)

    def route_of(self, target: str) -> Route | None:
        return next((route for route in self.routes if route.matches(target)), None)

    @classmethod
    def read(cls, value: Any, *, version: tuple[int, int] = (1, 40), where: str = "envoy") -> EnvoyConfig:
        """From the parts that recordings have. Raises ConfigError for what it does not know."""
        fields = Fields(value, where)
        vhost, hcm, listener = (fields.message(name) for name in ("vhost", "hcm", "listener"))
        filters = [read_filter(entry) for entry in fields.messages("http_filters")]
        config = cls(
            filters=tuple(entry for entry in filters if entry is not None),
            routes=tuple(Route.read(entry) for entry in fields.messages("routes")),
            vhost={} if vhost is None else dict(vhost.named("typed_per_filter_config")),
            upgrades=frozenset() if hcm is None else _upgrades(hcm),
            buffer_limit_bytes=DEFAULT_BUFFER_LIMIT_BYTES
            if listener is None
            else listener.whole("per_connection_buffer_limit_bytes", DEFAULT_BUFFER_LIMIT_BYTES),
            version=version,
        )
        for part in (vhost, hcm, listener, fields):
            if part is not None:
                part.finish()
        return config


def _upgrades(hcm: Fields) -> frozenset[str]:
    found = set()
    for entry in hcm.messages("upgrade_configs"):
        name = entry.text("upgrade_type").lower()
        if entry.flag("enabled", True):
            found.add(name)
        entry.finish()
    return frozenset(found)


def read_filter(fields: Fields) -> FilterConfig | None:
    """One entry of `http_filters`; None for the router. Raises ConfigError for a filter it does not know."""
    name, typed = fields.text("name"), fields.message("typed_config")
    if typed is None:
        raise ConfigError(f"{fields.where}: typed_config is not set")
    kind = typed.text("@type").removeprefix(_PREFIX)
    if kind == ROUTER_TYPE:
        return None
    if kind not in _READERS:
        raise ConfigError(f"{fields.where}: {kind or 'a filter without @type'} is not simulated")
    settings: FilterSettings = _READERS[kind](typed)
    if fields.flag("disabled"):
        settings = replace(settings, is_disabled=True)
    fields.finish()
    return FilterConfig(name, settings)
