"""The filters in Envoy's configuration, wherever they are, and what each route makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from coprocess.desk.envoy.doctor.as_envoy import as_envoy, is_true
from coprocess.desk.envoy.fields import list_of, object_of
from coprocess.desk.envoy.yaml_files import Where, YamlDocument, walk

_PREFIX = "type.googleapis.com/"
PROC, AUTHZ = "ext_proc", "ext_authz"
_KINDS = {
    "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor": PROC,
    "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz": AUTHZ,
}
_ROUTE_KINDS = {
    "envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute": PROC,
    "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute": AUTHZ,
}
#: Where a route's settings are, in its message.
INNER = {PROC: "overrides", AUTHZ: "check_settings"}
_OVERRIDDEN = (
    *("processing_mode", "failure_mode_allow", "metadata_options", "with_request_body"),
    *("grpc_service", "disable_request_body_buffering"),
)
_NAMES = {PROC: "envoy.filters.http.ext_proc", AUTHZ: "envoy.filters.http.ext_authz"}


#: What is around a filter that runs for some requests only.
_MATCHERS = ("ExtensionWithMatcher", "ExecuteFilterAction")


@dataclass(frozen=True, slots=True)
class Filter:
    """One filter as it is written."""

    kind: str
    name: str
    document: YamlDocument
    #: Of its typed_config.
    where: Where
    config: Mapping[str, Any]
    #: The connection manager around it, and the listener, where they are in the file.
    manager: Mapping[str, Any] = field(default_factory=dict)
    listener: Mapping[str, Any] = field(default_factory=dict)
    #: Whether a matcher around it decides whether it runs.
    is_matched: bool = False


@dataclass(frozen=True, slots=True)
class Override:
    """What a virtual host or a route says of one filter."""

    kind: str
    filter_name: str
    document: YamlDocument
    where: Where
    config: Mapping[str, Any]

    @property
    def inner(self) -> Mapping[str, Any]:
        """What it changes."""
        inner = self.config.get(INNER[self.kind])
        return inner if isinstance(inner, dict) else {}


@dataclass(frozen=True, slots=True)
class Use:
    """A filter on a route: with all that is said of it."""

    filter: Filter
    #: Where what is special about it is written: the route's words, or the filter's.
    document: YamlDocument
    where: Where
    #: The keys `x-coprocess-…`, and others, that its server is told.
    said: tuple[tuple[str, str], ...]
    mode: Mapping[str, Any]
    #: Of the most specific place that says so.
    failure_mode_allow: bool
    settings: Mapping[str, Any]


def filters_in(documents: list[YamlDocument]) -> list[Filter]:
    found = []
    for document in documents:
        for where, value in walk(document.value):
            kind = _KINDS.get(_type(value))
            if kind is not None:
                found.append(_filter(kind, document, where, *_unwrapped(where, value)))
    return found


def _unwrapped(where: Where, value: dict[str, Any]) -> tuple[Where, dict[str, Any]]:
    """What is in a TypedStruct; else `value`."""
    if "type_url" not in value:
        return where, value
    return (*where, "value"), object_of(value.get("value"))


def _filter(kind: str, document: YamlDocument, at: Where, where: Where, value: dict[str, Any]) -> Filter:
    """`at`: of its typed_config; `where`: of what that says."""
    around = [_at(document.value, at[:depth]) for depth in range(len(at))]
    # Matchers are around what they choose: the entry is around those.
    place = _entry_of(at)
    holder = around[-1] if place is None and around else _at(document.value, place or ())
    manager: dict[str, Any] = next((each for each in reversed(around) if _has(each, "http_filters")), {})
    listener: dict[str, Any] = next(
        (each for each in reversed(around) if _has(each, "filter_chains") or _has(each, "address")), {}
    )
    name = holder.get("name") if isinstance(holder, dict) else None
    is_matched = any(_type(each).endswith(_MATCHERS) for each in around)
    config = as_envoy(value)
    return Filter(kind, str(name or _NAMES[kind]), document, where, config, manager, listener, is_matched)


def uses_of(filters: list[Filter], documents: list[YamlDocument]) -> list[Use]:
    """Each filter as each route changes it, and by itself where a request meets it so."""
    layers = list(_layers(documents))
    uses = []
    for each in filters:
        own = [[override for override in layer if _is_for(override, each)] for layer in layers]
        if not own or not all(own):
            uses.append(_use(each, []))
        seen = set()
        for overrides in own:
            if overrides and not overrides[-1].config.get("disabled") and overrides[-1].where not in seen:
                seen.add(overrides[-1].where)
                uses.append(_use(each, overrides))
    return uses


def _is_for(override: Override, each: Filter) -> bool:
    # By the name that it has among the filters, whatever its type is called.
    return override.kind == each.kind and override.filter_name == each.name


def unused_overrides(filters: list[Filter], documents: list[YamlDocument]) -> Iterator[Override]:
    """Those of no filter, where filters of their kind are in the files."""
    kinds = {each.kind for each in filters}
    for override in overrides_in(documents):
        if override.kind in kinds and not any(_is_for(override, each) for each in filters):
            yield override


def _layers(documents: list[YamlDocument]) -> Iterator[list[Override]]:
    """Of each route, and of whatever else changes filters: what is said, the least specific first."""
    for document in documents:
        for where, value in walk(document.value):
            if isinstance(value.get("routes"), list):
                host = _overrides(document, where, value)
                for index, route in enumerate(value["routes"]):
                    yield [*host, *_overrides(document, (*where, "routes", index), route)]
            elif "typed_per_filter_config" in value and not _is_in_routes(where):
                yield _overrides(document, where, value)


def overrides_in(documents: list[YamlDocument]) -> list[Override]:
    """All of them, each once."""
    found = {(id(each.document), each.where): each for layer in _layers(documents) for each in layer}
    return list(found.values())


def _is_in_routes(where: Where) -> bool:
    return len(where) > 1 and where[-2] == "routes"


def _overrides(document: YamlDocument, where: Where, value: Any) -> list[Override]:
    found = []
    for name, config in object_of(object_of(value).get("typed_per_filter_config")).items():
        place: Where = (*where, "typed_per_filter_config", name)
        if isinstance(config, dict) and isinstance(config.get("config"), dict):
            config, place = config["config"], (*place, "config")
        kind = _ROUTE_KINDS.get(_type(config))
        if kind is not None:
            place, config = _unwrapped(place, config)
            found.append(Override(kind, str(name), document, place, as_envoy(config)))
    return found


def _use(each: Filter, overrides: list[Override]) -> Use:
    last = overrides[-1] if overrides else None
    said: dict[str, str] = {}
    settings: dict[str, Any] = dict(each.config)
    for override in overrides:
        inner = override.inner
        if each.kind == PROC:
            said.update(_metadata(inner.get("grpc_initial_metadata")))
        else:
            extensions = object_of(inner.get("context_extensions"))
            said.update({str(key): str(value) for key, value in extensions.items()})
        for name in _OVERRIDDEN:
            if inner.get(name) is not None:
                settings[name] = inner[name]
    if each.kind == PROC:
        # Of the service that is asked; what routes say is said to that one, too.
        said = {**_metadata(dig(settings, "grpc_service", "initial_metadata")), **said}
    mode = settings.get("processing_mode")
    return Use(
        each,
        last.document if last else each.document,
        last.where if last else each.where,
        tuple(said.items()),
        mode if isinstance(mode, dict) else {},
        settings.get("failure_mode_allow") is True,
        settings,
    )


def _metadata(entries: Any) -> dict[str, str]:
    return {
        str(entry.get("key", "")): str(entry.get("value", ""))
        for entry in list_of(entries)
        if isinstance(entry, dict)
    }


def disabled_on(
    filters: list[Filter], documents: list[YamlDocument]
) -> Iterator[tuple[Filter, YamlDocument, Where]]:
    """Where a filter is switched off: on a route, or among the filters."""
    for each in filters:
        place = _entry_of(each.where)
        if place is not None and is_true(dig(_at(each.document.value, place), "disabled")):
            yield each, each.document, (*place, "disabled")
    for document in documents:
        for where, value in walk(document.value):
            if len(where) < 2 or where[-2] != "typed_per_filter_config" or not is_true(value.get("disabled")):
                continue
            kind = _ROUTE_KINDS.get(_type(value)) or _ROUTE_KINDS.get(_type(value.get("config")))
            for each in filters:
                if where[-1] == each.name and kind in (each.kind, None):
                    yield each, document, (*where, "disabled")


def _entry_of(where: Where) -> Where | None:
    """Of the filter's entry, with its name; None: it is a resource of a control plane."""
    for depth in range(len(where), 1, -1):
        if where[depth - 2] == "http_filters":
            return where[:depth]
    around = where[:-1] if where[-2:] == ("typed_config", "value") else where
    return around[:-1] if around[-1:] == ("typed_config",) else None


def upgrades_past(each: Filter) -> Iterator[str]:
    """Types of upgrades whose requests do not meet the filter, as they have a list of filters without it."""
    if "upgrade_configs" in each.where:
        return
    for upgrade in list_of(each.manager.get("upgrade_configs")):
        own = list_of(dig(upgrade, "filters"))
        if own and not any(_KINDS.get(_type(value)) == each.kind for _, value in walk(own)):
            yield str(dig(upgrade, "upgrade_type"))


def dig(value: Any, *keys: str) -> Any:
    """None where anything on the way is not there."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _at(value: Any, where: Where) -> Any:
    for key in where:
        value = value[key]
    return value


def _has(value: Any, key: str) -> bool:
    return isinstance(value, dict) and key in value


def _type(value: Any) -> str:
    """Without what is before its name. Of a TypedStruct: the type that it stands for."""
    kind = value.get("@type") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind.endswith(".TypedStruct"):
        kind = value.get("type_url")
    return kind.removeprefix(_PREFIX) if isinstance(kind, str) else ""
