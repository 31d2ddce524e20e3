"""Ways to spoil the doctor's world by configuration, definition or bundle, and what is to be found then."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.doctor_world import CLASSIC, World, both, code


@dataclass(frozen=True)
class Case:
    """How to spoil the world, and what is to be found then: rule, severity, file, JSON path or line."""

    rule: str
    severity: str
    file: str
    place: str
    spoil: Callable[[World], object]
    #: A word that the explanation must have.
    says: str = ""


def _set_driver(driver: str, world: World) -> None:
    world.middleware["driver"] = driver


def _set_handler_type(kind: str, world: World) -> None:
    world.events["KeyExpired"] = [{"handler_name": kind, "handler_meta": {"name": "on_event"}}]


def _bridge(**changes: Any) -> dict[str, Any]:
    """A sound webhook to this service, but for the changes; None: left out."""
    meta = {
        "method": "POST",
        "target_path": "http://127.0.0.1:5556/events/on_event?api_id=one",
        "template_path": "templates/ours.json",
        "header_map": {"X-Coprocess-Secret": "env://SECRET"},
        "event_timeout": 1,
        **changes,
    }
    return {
        "handler_name": "eh_web_hook_handler",
        "handler_meta": {name: value for name, value in meta.items() if value is not None},
    }


def _oas_bridge(**changes: Any) -> dict[str, Any]:
    return {
        "enabled": True,
        "type": "webhook",
        "trigger": "QuotaExceeded",
        "name": "bridge",
        "url": "http://127.0.0.1:5556/events/on_event?api_id=two",
        "method": "POST",
        "bodyTemplate": "templates/ours.json",
        "headers": [{"name": "x-coprocess-secret", "value": "env://SECRET"}],
        "cooldownPeriod": "1s",
        **changes,
    }


def _add_bridge(world: World, **changes: Any) -> None:
    world.events["HostUp"] = [_bridge(**changes)]


def _add_oas_bridge(world: World, **changes: Any) -> None:
    world.gateway["server"]["eventHandlers"].append(_oas_bridge(**changes))


def _add_conf_bridge(world: World, **changes: Any) -> None:
    world.conf["event_handlers"] = {"events": {"TokenCreated": [_bridge(**changes)]}}


def _add_monitor(world: World, **changes: Any) -> None:
    world.conf["monitor"] = {"configuration": _bridge(**changes)["handler_meta"]}


def _only_events(driver: str | None, world: World) -> None:
    world.middleware.clear()
    world.classic["custom_plugin_auth_enabled"] = False
    if driver is not None:
        world.middleware["driver"] = driver


def _listen_for(event: str, world: World) -> None:
    world.events[event] = world.events["AuthFailure"]


def _webhook_cases() -> Iterator[Case]:
    one, two, conf = "apis/one.json", "apis/two.json", "tyk.conf"
    meta = "event_handlers.events.HostUp[0].handler_meta"
    oas = "x-tyk-api-gateway.server.eventHandlers[1]"
    of_conf = "event_handlers.events.TokenCreated[0].handler_meta"
    ways: tuple[tuple[str, Callable[..., None], str], ...] = (
        (one, _add_bridge, meta),
        (conf, _add_conf_bridge, of_conf),
        (conf, _add_monitor, "monitor.configuration"),
    )
    faults: tuple[tuple[str, str, str, list[Any]], ...] = (
        ("webhook-method", "error", "method", ["GET", "PSOT", "", None]),
        ("webhook-no-template", "error", "template_path", ["", None]),
        ("webhook-template-name", "warning", "template_path", ["templates/ours.tmpl"]),
        ("webhook-for-ever", "warning", "event_timeout", [0, None]),
        ("hook-unknown", "error", "target_path", ["http://h/events/on_evnt"]),
    )
    for file, add, place in ways:
        for rule, severity, name, values in faults:
            for value in values:
                yield Case(rule, severity, file, f"{place}.{name}", partial(add, **{name: value}))
        yield Case("webhook-no-secret", "error", file, f"{place}.target_path", partial(add, header_map=None))
        yield Case(
            "webhook-placeholder",
            "error",
            file,
            f"{place}.header_map.X-Coprocess-Secret",
            partial(add, header_map={"X-Coprocess-Secret": "THE SECRET"}),
        )
    for api in ("two", "API_ID"):
        url = f"http://h/events/on_event?api_id={api}&org_id=o"
        yield Case(
            "webhook-other-api", "error", one, f"{meta}.target_path", partial(_add_bridge, target_path=url)
        )
    other = "http://h/events/on_event?api_id=one"
    yield Case("webhook-other-api", "error", two, f"{oas}.url", partial(_add_oas_bridge, url=other))
    yield Case("webhook-method", "error", two, f"{oas}.method", partial(_add_oas_bridge, method="PUT"))
    yield Case(
        "webhook-no-template", "error", two, f"{oas}.bodyTemplate", partial(_add_oas_bridge, bodyTemplate="")
    )
    yield Case(
        "webhook-template-name",
        "warning",
        two,
        f"{oas}.bodyTemplate",
        partial(_add_oas_bridge, bodyTemplate="x.txt"),
    )
    for cooldown in ("", "0s", "0", None):
        yield Case(
            "webhook-for-ever",
            "warning",
            two,
            f"{oas}.cooldownPeriod",
            partial(_add_oas_bridge, cooldownPeriod=cooldown),
            says='"cooldownPeriod": "1s"',
        )
    yield Case("webhook-no-secret", "error", two, f"{oas}.url", partial(_add_oas_bridge, headers=[]))
    yield Case("json-broken", "error", one, f"{meta}.event_timeout", partial(_add_bridge, event_timeout="1"))
    for driver in (None, "", "otto"):
        yield Case("event-no-driver", "error", one, "custom_middleware.driver", partial(_only_events, driver))
    for event in ("TokenCreated", "TriggerExceeded"):
        yield Case(
            "event-not-here",
            "error",
            one,
            f"event_handlers.events.{event}",
            partial(_listen_for, event),
            says="tyk.conf",
        )


def _cases() -> Iterator[Case]:
    yield from _webhook_cases()
    one, two, conf = "apis/one.json", "apis/two.json", "tyk.conf"
    native = "handlers/native.py"
    address = "coprocess_options.coprocess_grpc_server"

    def named(address: str, **settings: Any) -> Callable[[World], object]:
        def spoil(world: World) -> None:
            world.options["coprocess_grpc_server"] = address
            world.settings.update(settings)

        return spoil

    yield Case(
        "conf-coprocess-off",
        "error",
        conf,
        "coprocess_options.enable_coprocess",
        lambda w: w.options.pop("enable_coprocess"),
    )
    yield Case("conf-no-address", "error", conf, address, lambda w: w.options.pop("coprocess_grpc_server"))
    for wrong in (
        "127.0.0.1:5555",
        "grpc://127.0.0.1:5555",
        "http://127.0.0.1:5555",
        "tcp://127.0.0.1",
        "unix://sock",
        "dns://name:5555",
    ):
        yield Case("conf-address-form", "error", conf, address, named(wrong), says="tcp://HOST:PORT")
    yield Case("conf-address-form", "warning", conf, address, named("localhost:5555"))
    yield Case("conf-address-mismatch", "error", conf, address, named("tcp://127.0.0.1:5556"), says="5556")
    yield Case("conf-address-mismatch", "error", conf, address, named("unix:///tmp/other.sock"))
    yield Case("conf-address-mismatch", "warning", conf, address, named("tcp://plugins:5555"))
    yield Case("conf-address-mismatch", "warning", conf, address, named("dns:///plugins:5555"))
    yield Case(
        "conf-message-limits",
        "warning",
        conf,
        "coprocess_options.grpc_recv_max_size",
        lambda w: w.options.pop("grpc_recv_max_size"),
        says="4194304",
    )
    yield Case(
        "conf-message-limits",
        "warning",
        conf,
        "coprocess_options.grpc_send_max_size",
        lambda w: w.options.update(grpc_send_max_size=1000),
        says="twice",
    )
    yield Case(
        "conf-tls",
        "warning",
        conf,
        address,
        lambda w: w.settings.update(tls_cert=Path("c.pem"), tls_key=Path("k.pem")),
    )
    yield Case(
        "json-broken",
        "error",
        conf,
        "coprocess_options.enable_coprocess",
        lambda w: w.options.update(enable_coprocess="yes"),
    )
    yield Case(
        "json-broken",
        "error",
        "apis/three.json",
        '~"b" 2',
        lambda w: w.files.update({"apis/three.json": '{"api_id": "x",\n "a": 1,\n "b" 2}'}),
        says="line 3",
    )
    yield Case(
        "json-broken",
        "error",
        one,
        "custom_middleware.pre",
        lambda w: w.middleware.update(pre={"name": "pre"}),
        says="list",
    )
    yield Case(
        "json-broken",
        "error",
        one,
        "custom_middleware.pre[0].name",
        lambda w: w.middleware["pre"][0].update(name=5),
    )

    yield Case(
        "hook-unknown",
        "error",
        one,
        "custom_middleware.pre[0].name",
        lambda w: w.middleware["pre"].insert(0, {"name": "Pree"}),
        says="Near it: pre (@Pre)",
    )
    yield Case(
        "hook-unknown",
        "error",
        two,
        "x-tyk-api-gateway.middleware.global.postPlugins[0].functionName",
        lambda w: w.gateway["middleware"]["global"].update(
            postPlugins=[{"enabled": True, "functionName": "zzz"}]
        ),
        says="500",
    )
    yield Case(
        "hook-unknown",
        "error",
        one,
        "custom_middleware.auth_check.name",
        lambda w: w.middleware.update(auth_check={"name": "oauth"}),
        says="403",
    )
    yield Case(
        "hook-unknown",
        "error",
        one,
        "event_handlers.events.AuthFailure[1].handler_meta.name",
        lambda w: w.events["AuthFailure"].append(
            {"handler_name": "cp_dynamic_handler", "handler_meta": {"name": "gone"}}
        ),
    )
    yield Case(
        "hook-wrong-decorator",
        "error",
        one,
        "custom_middleware.pre[3].name",
        lambda w: w.middleware["pre"].append({"name": "post"}),
        says="@Pre",
    )
    yield Case(
        "hook-ambiguous",
        "error",
        one,
        "custom_middleware.pre[3].name",
        both(
            code("pre", "pass", '\n@Pre(api_id="other")\ndef theirs(request):\n    pass\n'),
            lambda w: w.middleware["pre"].append({"name": "theirs"}),
        ),
        says='"other"',
    )
    yield Case(
        "hook-nameless",
        "error",
        one,
        "custom_middleware.post[0].name",
        lambda w: w.middleware["post"].insert(0, {"name": ""}),
    )
    yield Case(
        "handler-unused", "note", native, "~@Pre(name=", lambda w: w.middleware["pre"].pop(1), says="slow"
    )
    yield Case(
        "handler-broken",
        "error",
        "handlers/bad.py",
        "~import nothing",
        lambda w: w.files.update({"handlers/bad.py": "\nimport nothing_of_that_name\n"}),
    )
    yield Case(
        "handler-broken",
        "error",
        "handlers/bad.py",
        "~def (",
        lambda w: w.files.update({"handlers/bad.py": "x = 1\ndef (:\n"}),
    )

    for driver in ("python", "otto", "goplugin", ""):
        yield Case(
            "driver-wrong",
            "error",
            one,
            "custom_middleware.driver",
            partial(_set_driver, driver),
            says="grpc",
        )
    yield Case(
        "driver-wrong",
        "warning",
        "apis/js.json",
        "custom_middleware.driver",
        lambda w: w.files.update(
            {
                "apis/js.json": json.dumps(
                    {
                        "api_id": "js",
                        "proxy": {"listen_path": "/js/"},
                        "custom_middleware": {"pre": [{"name": "scripted"}], "driver": "otto"},
                    }
                )
            }
        ),
    )
    yield Case(
        "auth-not-enabled",
        "error",
        one,
        "custom_plugin_auth_enabled",
        lambda w: w.classic.pop("custom_plugin_auth_enabled"),
    )
    yield Case(
        "auth-not-enabled",
        "error",
        two,
        "x-tyk-api-gateway.server.authentication.custom.enabled",
        lambda w: w.custom_auth.update(enabled=False),
    )
    yield Case(
        "auth-keyless",
        "error",
        one,
        "use_keyless",
        lambda w: w.classic.update(use_keyless=True),
        says="everybody",
    )
    yield Case(
        "auth-keyless",
        "error",
        two,
        "x-tyk-api-gateway.server.authentication.enabled",
        lambda w: w.gateway["server"]["authentication"].pop("enabled"),
    )
    yield Case(
        "auth-no-hook",
        "warning",
        one,
        "custom_plugin_auth_enabled",
        lambda w: w.middleware.pop("auth_check"),
        says="No handler decides",
    )
    yield Case(
        "id-extractor-shared-session",
        "error",
        one,
        "custom_middleware.id_extractor",
        lambda w: w.middleware.update(id_extractor={"extract_from": "body", "extract_with": "value"}),
        says="share one session",
    )
    yield Case(
        "id-extractor-shared-session",
        "error",
        two,
        "x-tyk-api-gateway.server.authentication.custom.config.idExtractor",
        lambda w: w.custom_auth["config"].update(
            idExtractor={"enabled": True, "source": "body", "with": "value"}
        ),
    )
    yield Case(
        "id-extractor-invalid",
        "error",
        one,
        "custom_middleware.id_extractor",
        lambda w: w.middleware.update(id_extractor={"extract_from": "cookie", "extract_with": "value"}),
    )
    yield Case(
        "api-duplicate-id",
        "error",
        two,
        "x-tyk-api-gateway.info.id",
        lambda w: w.gateway["info"].update(id="one"),
        says="one.json",
    )
    yield Case(
        "api-duplicate-path",
        "error",
        two,
        "x-tyk-api-gateway.server.listenPath.value",
        lambda w: w.gateway["server"]["listenPath"].update(value="/one"),
    )

    yield Case(
        "event-unknown",
        "error",
        one,
        "event_handlers.events.RateLimitExceeded",
        lambda w: w.events.update(RateLimitExceeded=w.events["AuthFailure"]),
        says="Write RatelimitExceeded",
    )
    yield Case(
        "event-unknown",
        "warning",
        one,
        "event_handlers.events.Zzz",
        lambda w: w.events.update(Zzz=w.events["AuthFailure"]),
    )
    for kind in ("cp_dynamic_handlr", "eh_dynamic_handler"):
        yield Case(
            "event-wrong-handler-type",
            "error",
            one,
            "event_handlers.events.KeyExpired[0].handler_name",
            partial(_set_handler_type, kind),
        )
    yield Case(
        "event-nameless",
        "error",
        one,
        "event_handlers.events.HostUp[0].handler_meta.name",
        lambda w: w.events.update(HostUp=[{"handler_name": "cp_dynamic_handler"}]),
    )
    yield Case(
        "event-oas",
        "error",
        two,
        "x-tyk-api-gateway.server.eventHandlers[1].functionName",
        lambda w: w.gateway["server"]["eventHandlers"].append({"type": "custom", "functionName": "on_event"}),
        says="classic definition",
    )
    yield Case(
        "event-oas",
        "error",
        two,
        "event_handlers.events.AuthFailure",
        lambda w: w.oas.update(
            event_handlers=copy.deepcopy(CLASSIC["event_handlers"]["events"])
            and {"events": {"AuthFailure": CLASSIC["event_handlers"]["events"]["AuthFailure"]}}
        ),
    )

    yield Case(
        "conf-bundles-off",
        "error",
        conf,
        "bundle_base_url",
        lambda w: (w.bundle(), w.conf.pop("bundle_base_url")),
    )
    yield Case(
        "api-bundle-replaces-hooks",
        "warning",
        one,
        "custom_middleware_bundle",
        lambda w: (w.bundle(), w.middleware.update(pre=[{"name": "pre"}], driver="grpc")),
    )
    yield Case(
        "manifest-missing",
        "error",
        "broken.zip",
        "",
        both(
            lambda w: w.files.update({"broken.zip": "no zip"}),
            lambda w: (w.folder / "broken.zip").touch(),
            lambda w: w.bundles.append(w.folder / "broken.zip"),
        ),
    )
    manifest = "folder/manifest.json"
    good = {
        "file_list": [],
        "custom_middleware": {"driver": "grpc", "pre": [{"name": "pre"}]},
        "checksum": "d41d8cd98f00b204e9800998ecf8427e",
        "signature": "c2ln",
    }

    def folder(**changes: Any) -> Callable[[World], object]:
        def spoil(world: World) -> None:
            path = world.folder / manifest
            path.parent.mkdir()
            path.write_text(json.dumps({**good, **changes}))
            world.bundles.append(path.parent)

        return spoil

    yield Case("manifest-checksum", "error", manifest, "checksum", folder(checksum="0" * 32), says="d41d8")
    yield Case("manifest-file-missing", "error", manifest, "file_list", folder(file_list=["gone.py"]))
    yield Case("manifest-unsigned", "warning", manifest, "signature", folder(signature=""))
    yield Case(
        "manifest-unsigned",
        "error",
        manifest,
        "signature",
        both(folder(signature=""), lambda w: w.conf.update(public_key_path="/k/pub.pem")),
        says="pub.pem",
    )
    yield Case(
        "driver-wrong",
        "error",
        manifest,
        "custom_middleware.driver",
        folder(custom_middleware={"driver": "python", "pre": [{"name": "pre"}]}),
    )
    yield Case(
        "hook-unknown",
        "error",
        manifest,
        "custom_middleware.pre[0].name",
        folder(custom_middleware={"driver": "grpc", "pre": [{"name": "prre"}]}),
        says="Near it: pre",
    )
    yield Case("json-broken", "error", manifest, "file_list", folder(file_list="x"))


CASES = list(_cases())
