"""An API definition as the doctor needs it: both forms alike, each value with its place in the file."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from coprocess.api.moments import HookType
from coprocess.desk.tyk.doctor.document import Document
from coprocess.desk.tyk.fields import Field
from coprocess.process.webhooks import PREFIX

_CLASSIC_LISTS = (
    ("pre", HookType.Pre),
    ("post_key_auth", HookType.PostKeyAuth),
    ("post", HookType.Post),
    ("response", HookType.Response),
)
_OAS_LISTS = (
    ("prePlugins", HookType.Pre),
    ("postAuthenticationPlugins", HookType.PostKeyAuth),
    ("postPlugins", HookType.Post),
    ("responsePlugins", HookType.Response),
)


@dataclass(frozen=True, slots=True)
class HookUse:
    """A hook that a definition or a manifest names. Disabled ones are not among them."""

    type: HookType
    name: str
    document: Document
    #: Of the name.
    path: str


@dataclass(frozen=True, slots=True)
class EventUse:
    """A listener of an event."""

    event: str
    event_path: str
    #: `cp_dynamic_handler`, for plugins.
    kind: str
    kind_path: str
    function: str
    function_path: str
    #: What the listener is told: a function's name, a webhook's target.
    meta: Field


@dataclass(frozen=True, slots=True)
class Extractor:
    """An ID extractor that is on."""

    source: str
    way: str
    path: str


@dataclass(frozen=True, slots=True)
class LostListener:
    """A listener of an OAS definition that no plugin can hear."""

    path: str
    function: str
    #: A script's listener, all right in itself: lost only if it names one of our handlers.
    is_script: bool = False


@dataclass(slots=True)
class Api:
    """One definition. Paths are where a finding points when the value is wrong."""

    document: Document
    is_oas: bool
    api_id: str = ""
    id_path: str = ""
    listen_path: str = ""
    listen_path_path: str = ""
    domain: str = ""
    keyless: bool = False
    keyless_path: str = ""
    auth_enabled: bool = False
    auth_path: str = ""
    driver: str = ""
    driver_path: str = ""
    bundle: str = ""
    bundle_path: str = ""
    extractor: Extractor | None = None
    hooks: list[HookUse] = field(default_factory=list)
    events: list[EventUse] = field(default_factory=list)
    #: OAS only.
    lost_events: list[LostListener] = field(default_factory=list)
    #: OAS only: the listeners that are webhooks, and on.
    webhooks: list[Field] = field(default_factory=list)
    #: A classic form that the gateway made of an OAS definition, which lies beside it.
    made_from_oas: bool = False

    @property
    def auth_hook(self) -> HookUse | None:
        return next((hook for hook in self.hooks if hook.type is HookType.CustomKeyCheck), None)


def read_api(document: Document) -> Api:
    """The definition of either form. Raises ConfigError naming the place of a value of the wrong kind."""
    root = document.root
    if root["api_definition"]:  # As the Dashboard exports it.
        root = root["api_definition"]
    if root["x-tyk-api-gateway"]:
        return _read_oas(document, root)
    return _read_classic(document, root)


def _read_classic(document: Document, root: Field) -> Api:
    middleware, listen = root["custom_middleware"], root["proxy"]["listen_path"]
    keyless = root["use_keyless"]
    flag = root["custom_plugin_auth_enabled"]
    bundle, driver = root["custom_middleware_bundle"], middleware["driver"]
    return Api(
        document,
        is_oas=False,
        api_id=root["api_id"].text(),
        id_path=root["api_id"].path,
        listen_path=listen.text(),
        listen_path_path=listen.path,
        domain=root["domain"].text(),
        keyless=keyless.flag(),
        keyless_path=keyless.path,
        auth_enabled=flag.flag() or root["enable_coprocess_auth"].flag(),
        auth_path=flag.path,
        driver=driver.text(),
        driver_path=driver.path,
        bundle="" if root["custom_middleware_bundle_disabled"].flag() else bundle.text(),
        bundle_path=bundle.path,
        extractor=_classic_extractor(middleware["id_extractor"]),
        hooks=_classic_hooks(document, middleware),
        events=read_events(root["event_handlers"]["events"]),
        made_from_oas=root["is_oas"].flag(),
    )


def manifest_hooks(document: Document) -> list[HookUse]:
    """The hooks of a bundle's manifest. Raises ConfigError as `read_api` does."""
    return _classic_hooks(document, document.root["custom_middleware"])


def _classic_hooks(document: Document, middleware: Field) -> list[HookUse]:
    found = [(hook_type, hook) for name, hook_type in _CLASSIC_LISTS for hook in middleware[name]]
    auth = middleware["auth_check"]
    # Go writes an empty structure where there is none.
    if auth["name"].text():
        found.append((HookType.CustomKeyCheck, auth))
    return [
        HookUse(hook_type, hook["name"].text(), document, hook["name"].path)
        for hook_type, hook in found
        if not hook["disabled"].flag()
    ]


def _classic_extractor(extractor: Field) -> Extractor | None:
    way = extractor["extract_with"].text()
    if extractor["disabled"].flag() or not way:
        return None
    return Extractor(extractor["extract_from"].text(), way, extractor.path)


def read_events(events: Field) -> list[EventUse]:
    """The listeners in `event_handlers.events`. Raises ConfigError as `read_api` does."""
    return [
        EventUse(
            event,
            listeners.path,
            listener["handler_name"].text(),
            listener["handler_name"].path,
            listener["handler_meta"]["name"].text(),
            listener["handler_meta"]["name"].path,
            listener["handler_meta"],
        )
        for event, listeners in events.members().items()
        for listener in listeners
    ]


def _read_oas(document: Document, root: Field) -> Api:
    extension = root["x-tyk-api-gateway"]
    info, server = extension["info"], extension["server"]
    plugins = extension["middleware"]["global"]
    authentication = server["authentication"]
    custom = authentication["custom"]
    listen, driver = server["listenPath"]["value"], plugins["pluginConfig"]["driver"]
    bundle = plugins["pluginConfig"]["bundle"]
    keyless = not authentication["enabled"].flag()
    return Api(
        document,
        is_oas=True,
        api_id=info["id"].text(),
        id_path=info["id"].path,
        listen_path=listen.text(),
        listen_path_path=listen.path,
        domain=server["customDomain"]["name"].text() if server["customDomain"]["enabled"].flag() else "",
        keyless=keyless,
        keyless_path=authentication["enabled"].path,
        auth_enabled=not keyless and custom["enabled"].flag(),
        auth_path=custom["enabled"].path,
        driver=driver.text(),
        driver_path=driver.path,
        bundle=bundle["path"].text() if bundle["enabled"].flag() else "",
        bundle_path=bundle["path"].path,
        extractor=_oas_extractor(custom["config"]["idExtractor"]),
        hooks=_oas_hooks(document, plugins, custom["config"]),
        lost_events=_oas_events(root, extension),
        webhooks=_oas_webhooks(extension["server"]["eventHandlers"]),
    )


def _oas_hooks(document: Document, plugins: Field, auth: Field) -> list[HookUse]:
    # Older definitions have {"prePlugin": {"plugins": […]}} for {"prePlugins": […]}.
    found = [
        (hook_type, hook)
        for name, hook_type in _OAS_LISTS
        for hook in (plugins[name] or plugins[name.removesuffix("s")]["plugins"])
    ]
    if auth["functionName"].text():
        found.append((HookType.CustomKeyCheck, auth))
    return [
        HookUse(hook_type, hook["functionName"].text(), document, hook["functionName"].path)
        for hook_type, hook in found
        if hook["enabled"].flag()
    ]


def _oas_extractor(extractor: Field) -> Extractor | None:
    way = extractor["with"].text()
    if not extractor["enabled"].flag() or not way:
        return None
    return Extractor(extractor["source"].text(), way, extractor.path)


#: What an OAS definition's listeners can be: a webhook, a script inside the gateway, its log.
_OAS_LISTENERS = ("webhook", "custom", "log")


def _oas_events(root: Field, extension: Field) -> list[LostListener]:
    lost = []
    # The classic form, which this one does not know, wherever people put it.
    for place in (root, extension, extension["server"], extension["middleware"]["global"]):
        lost.extend(_lost(place["event_handlers"]["events"]))
    listeners = extension["server"]["eventHandlers"]
    if isinstance(listeners.value, dict):
        return [*lost, *_lost(listeners["events"])]
    for listener in listeners:
        kind, function = listener["type"].text(), listener["functionName"]
        if kind == "custom":
            lost.append(LostListener(function.path, function.text(), is_script=True))
        elif kind not in _OAS_LISTENERS:
            lost.append(LostListener(listener.path, function.text() or listener["name"].text()))
    return lost


def webhook_handler(url: str) -> str:
    """The function of this service that a webhook to `url` runs; empty where it goes elsewhere."""
    try:
        path = urlsplit(url).path
    except ValueError:
        return ""
    return unquote(path.removeprefix(PREFIX)) if path.startswith(PREFIX) else ""


def _oas_webhooks(listeners: Field) -> list[Field]:
    if isinstance(listeners.value, dict):
        return []
    return [each for each in listeners if each["type"].text() == "webhook" and each["enabled"].flag()]


def _lost(events: Field) -> list[LostListener]:
    return [LostListener(use.event_path, use.function) for use in read_events(events)]
