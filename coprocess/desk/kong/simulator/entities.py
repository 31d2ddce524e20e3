"""Kong's entities, from a declarative configuration: services, routes, plugins, consumers, upstreams."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from coprocess.bounded import repr_of
from coprocess.desk.kong.simulator.dump import PluginInfo
from coprocess.errors import ConfigError
from coprocess.gateways.kong.schema import as_text, configured

WORKSPACE = "0dc6f45b-8f8d-40d2-a504-473544ee190b"
_HTTP = ("grpc", "grpcs", "http", "https")
_DEFAULT_PORTS = {"http": 80, "https": 443, "grpc": 80, "grpcs": 443}


@dataclass(eq=False, slots=True)
class Service:
    """Where requests go."""

    id: str
    name: str | None
    protocol: str
    host: str
    port: int
    path: str | None
    retries: int = 5
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Route:
    """Which requests a service gets."""

    id: str
    name: str | None
    service: Service | None
    paths: tuple[str, ...]
    hosts: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    headers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    protocols: tuple[str, ...] = ("http", "https")
    strip_path: bool = True
    preserve_host: bool = False
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Consumer:
    """Who calls, with the credentials by plugin."""

    id: str
    username: str | None
    custom_id: str | None
    tags: tuple[str, ...] | None
    keys: tuple[dict[str, Any], ...] = ()


@dataclass(eq=False, slots=True)
class PluginEntity:
    """A plugin put to work, on everything or on a part."""

    id: str
    name: str
    config: dict[str, Any]
    info: PluginInfo | None
    route: Route | None = None
    service: Service | None = None
    consumer: str | None = None
    protocols: tuple[str, ...] = _HTTP
    #: Counts up with each configuration: an instance of an older one is replaced.
    sequence: int = 1

    @property
    def key(self) -> str:
        scope = [self.route.id if self.route else "", self.service.id if self.service else ""]
        return ":".join(["plugins", self.name, *scope, self.consumer or "", "", WORKSPACE])

    def instance_config(self) -> dict[str, Any]:
        """What its server gets, as JSON's values."""
        scope = {
            "route_id": self.route.id if self.route else None,
            "service_id": self.service.id if self.service else None,
            "consumer_id": self.consumer,
        }
        return {
            **self.config,
            **{name: value for name, value in scope.items() if value is not None},
            "__seq__": self.sequence,
            "__plugin_id": self.id,
            "__ws_id": WORKSPACE,
            "__key__": self.key,
        }


@dataclass(slots=True)
class Entities:
    """All of one configuration."""

    services: list[Service] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    plugins: list[PluginEntity] = field(default_factory=list)
    consumers: list[Consumer] = field(default_factory=list)
    #: Name → addresses as host:port.
    upstreams: dict[str, tuple[str, ...]] = field(default_factory=dict)


#: Plugins of Kong's own that are simulated too, and the fields of theirs that matter.
BUNDLED = {"key-auth": 1250}


def load_entities(document: Any, plugins: Mapping[str, PluginInfo]) -> Entities:
    """Read a declarative configuration, as Kong does at start.

    Raises ConfigError where Kong would refuse it, and for plugins that are neither among `plugins` nor
    simulated.
    """
    return _Loading(plugins).load(document)


class _Loading:
    def __init__(self, plugins: Mapping[str, PluginInfo]) -> None:
        self.plugins = plugins
        self.entities = Entities()
        self.count = 0

    def load(self, document: Any) -> Entities:
        if not isinstance(document, dict):
            raise ConfigError(f"the declarative configuration: expected a map, got {repr_of(document, 60)}")
        for index, entry in enumerate(_maps(document, "upstreams")):
            name = entry.get("name")
            targets = tuple(str(target.get("target")) for target in _maps(entry, "targets"))
            self.entities.upstreams[str(name or index)] = targets
        for index, entry in enumerate(_maps(document, "services"), 1):
            self._service(entry, f"services[{index}]")
        for index, entry in enumerate(_maps(document, "routes"), 1):
            self._route(entry, self._named(entry.get("service")), f"routes[{index}]")
        for index, entry in enumerate(_maps(document, "consumers"), 1):
            self._consumer(entry, f"consumers[{index}]")
        for index, entry in enumerate(_maps(document, "keyauth_credentials"), 1):
            self._key(entry, f"keyauth_credentials[{index}]")
        for index, entry in enumerate(_maps(document, "plugins"), 1):
            place = f"plugins[{index}]"
            route, service = self._route_named(entry.get("route"), place), self._named(entry.get("service"))
            consumer = self._consumer_id(_reference(entry.get("consumer")))
            self._plugin(entry, place, route, service, consumer)
        return self.entities

    def _route_named(self, reference: Any, place: str) -> Route | None:
        name = _reference(reference)
        if name is None:
            return None
        for route in self.entities.routes:
            if name in (route.id, route.name):
                return route
        raise ConfigError(f"{place}: there is no route {name!r}")

    def _id(self, entry: Mapping[str, Any], place: str) -> str:
        return str(entry.get("id") or uuid.uuid5(uuid.NAMESPACE_URL, f"{place}:{entry.get('name')}"))

    def _named(self, reference: Any) -> Service | None:
        name = _reference(reference)
        if name is None:
            return None
        for service in self.entities.services:
            if name in (service.id, service.name):
                return service
        raise ConfigError(f"there is no service {name!r}")

    def _service(self, entry: dict[str, Any], place: str) -> None:
        parts = urlsplit(str(entry["url"])) if entry.get("url") else None
        protocol = str(entry.get("protocol") or (parts.scheme if parts else "") or "http")
        host = entry.get("host") or (parts.hostname if parts else None)
        if not isinstance(host, str):
            raise ConfigError(f"{place}: host: required field missing")
        port = entry.get("port") or (parts.port if parts else None) or _DEFAULT_PORTS.get(protocol, 80)
        path = entry.get("path") or (parts.path if parts else None) or None
        service = Service(
            self._id(entry, place),
            entry.get("name"),
            protocol,
            host,
            int(port),
            path,
            entry.get("retries", 5),
        )
        times = ("connect_timeout", "read_timeout", "write_timeout")
        service.more = {name: entry.get(name, 60000) for name in times}
        if entry.get("tags"):
            service.more["tags"] = list(entry["tags"])
        self.entities.services.append(service)
        for index, route in enumerate(_maps(entry, "routes"), 1):
            self._route(route, service, f"{place}.routes[{index}]")
        for index, plugin in enumerate(_maps(entry, "plugins"), 1):
            self._plugin(plugin, f"{place}.plugins[{index}]", None, service, None)

    def _route(self, entry: dict[str, Any], service: Service | None, place: str) -> None:
        headers = entry.get("headers") or {}
        route = Route(
            self._id(entry, place),
            entry.get("name"),
            service,
            _texts(entry, "paths", place),
            _texts(entry, "hosts", place),
            _texts(entry, "methods", place),
            {name.lower(): tuple(map(str, values)) for name, values in headers.items()},
            _texts(entry, "protocols", place) or ("http", "https"),
            entry.get("strip_path", True) is not False,
            entry.get("preserve_host", False) is True,
        )
        names = {"path_handling": "v0", "regex_priority": 0, "https_redirect_status_code": 426}
        names |= {"request_buffering": True, "response_buffering": True}
        route.more = {name: entry.get(name, default) for name, default in names.items()}
        if entry.get("tags"):
            route.more["tags"] = list(entry["tags"])
        self.entities.routes.append(route)
        for index, plugin in enumerate(_maps(entry, "plugins"), 1):
            self._plugin(plugin, f"{place}.plugins[{index}]", route, None, None)

    def _consumer(self, entry: dict[str, Any], place: str) -> None:
        tags = _texts(entry, "tags", place)
        consumer = Consumer(
            self._id(entry, place), entry.get("username"), entry.get("custom_id"), tags or None
        )
        self.entities.consumers.append(consumer)
        for index, key in enumerate(_maps(entry, "keyauth_credentials"), 1):
            self._key({**key, "consumer": consumer.id}, f"{place}.keyauth_credentials[{index}]")
        for index, plugin in enumerate(_maps(entry, "plugins"), 1):
            self._plugin(plugin, f"{place}.plugins[{index}]", None, None, consumer.id)

    def _key(self, entry: dict[str, Any], place: str) -> None:
        name = _reference(entry.get("consumer"))
        for consumer in self.entities.consumers:
            if name in (consumer.id, consumer.username):
                credential = {"id": self._id(entry, place), "key": entry.get("key")}
                if entry.get("tags"):
                    credential["tags"] = list(entry["tags"])
                consumer.keys = (*consumer.keys, credential)
                return
        raise ConfigError(f"{place}: there is no consumer {name!r}")

    def _consumer_id(self, name: str | None) -> str | None:
        if name is None:
            return None
        for consumer in self.entities.consumers:
            if name in (consumer.id, consumer.username):
                return consumer.id
        raise ConfigError(f"there is no consumer {name!r}")

    def _plugin(
        self,
        entry: dict[str, Any],
        place: str,
        route: Route | None,
        service: Service | None,
        consumer: str | None,
    ) -> None:
        name = entry.get("name")
        if not isinstance(name, str):
            raise ConfigError(f"{place}: name: required field missing")
        info = self.plugins.get(name)
        if info is None and name not in BUNDLED:
            raise ConfigError(
                f"{place}: plugin {name!r} is not one that is simulated. Expected: its file, too: --with FILE"
            )
        config = entry.get("config") or {}
        if info is not None and not info.has_config:
            if config:
                raise ConfigError(f"{place}: config: unknown field")
        elif info is not None:
            config, problems = configured(info.fields, entry.get("config"))
            if problems:
                raise ConfigError(f"{place}: {as_text(problems)}")
        if entry.get("enabled") is False:
            return
        self.count += 1
        self.entities.plugins.append(
            PluginEntity(
                self._id(entry, f"{place}:{route.id if route else ''}"),
                name,
                config,
                info,
                route,
                service,
                consumer,
                _texts(entry, "protocols", place) or _HTTP,
                self.count,
            )
        )


def _maps(entry: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
    values = entry.get(name)
    if values is None or values == {}:
        return
    if not isinstance(values, list):
        raise ConfigError(f"{name}: expected a list, got {repr_of(values, 60)}")
    for index, value in enumerate(values, 1):
        if not isinstance(value, dict):
            raise ConfigError(f"{name}[{index}]: expected a map, got {repr_of(value, 60)}")
        yield value


def _texts(entry: Mapping[str, Any], name: str, place: str) -> tuple[str, ...]:
    values: Any = entry.get(name)
    if values is None or values == {}:
        return ()
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ConfigError(f"{place}.{name}: expected a list of text, got {repr_of(values, 60)}")
    return tuple(values)


def _reference(value: Any) -> str | None:
    if isinstance(value, Mapping):
        value = value.get("id") or value.get("name") or value.get("username")
    return None if value is None else str(value)


def in_order(plugins: Iterable[PluginEntity]) -> list[PluginEntity]:
    """As Kong runs them: highest priority first; of equal ones, the name that is later in the alphabet."""
    return sorted(
        plugins,
        key=lambda each: (each.info.priority if each.info else BUNDLED[each.name], each.name),
        reverse=True,
    )
