"""Rules on an API definition by itself: driver, authentication, ID extractor, duplicates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from coprocess.api.moments import HookType
from coprocess.desk.findings import FileFinding, Severity
from coprocess.desk.tyk.definition import EXTRACTOR_SOURCES, EXTRACTOR_WAYS, HookUse
from coprocess.desk.tyk.doctor.api import Api
from coprocess.desk.tyk.doctor.project import Project

_DRIVERS = {
    "python": "runs its hooks in its embedded Python, where this service's handlers are not",
    "otto": "takes its hooks for JavaScript functions",
    "goplugin": "takes its hooks for symbols of a Go plugin",
    "lua": "takes its hooks for Lua functions",
    "": "takes its hooks for JavaScript functions, as it does without a driver",
}


def check_definition(project: Project, api: Api) -> Iterator[FileFinding]:
    """What is wrong in one definition."""
    hooks = project.hooks_of(api)
    if api.bundle and api.definition.hooks:
        yield _finding(
            api,
            Severity.WARNING,
            "api-bundle-replaces-hooks",
            api.definition.bundle.path,
            f"The definition names the bundle {api.bundle} and hooks of its own.",
            "The bundle's manifest takes the place of all of the definition's hooks: they are not called.",
            "Name the hooks in one place: in the bundle's manifest, or here without a bundle.",
        )
    if not api.bundle:
        yield from _check_driver(project, api)
    yield from _check_auth(api, next((h for h in hooks if h.type is HookType.CustomKeyCheck), None), project)
    yield from _check_extractor(api)


def wrong_driver(project: Project, driver: str, hooks: Sequence[HookUse]) -> tuple[Severity, str] | None:
    """None for grpc. A warning where the hooks may well be meant for the driver that is named."""
    if driver == "grpc" or not hooks:
        return None
    ours = {hook.name for hook in project.loaded.table}
    is_other = driver in ("otto", "goplugin", "lua") and ours.isdisjoint(hook.name.text() for hook in hooks)
    what = _DRIVERS.get(driver, "does not know this driver")
    shown = f'The driver is "{driver}"' if driver else "No driver is named"
    return (Severity.WARNING if is_other else Severity.ERROR), f"{shown}: the gateway {what}."


def _check_driver(project: Project, api: Api) -> Iterator[FileFinding]:
    if (wrong := wrong_driver(project, api.driver, api.definition.hooks)) is None:
        return
    severity, problem = wrong
    yield _finding(
        api,
        severity,
        "driver-wrong",
        api.definition.driver.path,
        problem,
        "This service is never called for the API.",
        'Set the driver to "grpc".' if severity is Severity.ERROR else 'Set it to "grpc" if they are here.',
    )


def _check_auth(api: Api, hook: HookUse | None, project: Project) -> Iterator[FileFinding]:
    definition = api.definition
    if hook is None:
        # What the hooks of a bundle are that was not given, nobody knows.
        is_of_unknown_bundle = api.bundle and project.bundle_of(api) is None
        if definition.is_plugin_auth and not is_of_unknown_bundle and not definition.is_keyless:
            yield _finding(
                api,
                Severity.WARNING,
                "auth-no-hook",
                definition.plugin_auth.path,
                "Plugin authentication is enabled, but no auth hook is named or it is disabled.",
                "No handler decides who may pass.",
                "Name a CustomKeyCheck handler as the auth hook, or switch plugin authentication off.",
            )
        return
    if definition.is_keyless:
        yield _finding(
            api,
            Severity.ERROR,
            "auth-keyless",
            definition.keyless.path,
            f'The auth hook "{hook.name.text()}" is named, but the API is keyless: it asks nobody for a key.',
            "The hook is never called: everybody may use the API.",
            'Set "authentication": {"enabled": true} and "custom": {"enabled": true} in it.'
            if definition.is_oas
            else 'Set "use_keyless": false and "custom_plugin_auth_enabled": true.',
        )
    elif not definition.is_plugin_auth:
        yield _finding(
            api,
            Severity.ERROR,
            "auth-not-enabled",
            definition.plugin_auth.path,
            f'The auth hook "{hook.name.text()}" is named, but plugin authentication is not enabled.',
            "The hook is never called: the gateway asks for one of its own keys instead.",
            'Set "custom": {"enabled": true} under authentication.'
            if definition.is_oas
            else 'Set "custom_plugin_auth_enabled": true (older gateways: "enable_coprocess_auth").',
        )


def _check_extractor(api: Api) -> Iterator[FileFinding]:
    if (extractor := api.definition.extractor) is None:
        return
    source, way = extractor.source.text(), extractor.way.text()
    if source == "body" and way == "value":
        yield _finding(
            api,
            Severity.ERROR,
            "id-extractor-shared-session",
            extractor.place.path,
            'The ID extractor takes the "value" of the "body": the gateway then extracts the empty text.',
            "All callers share one session: once one of them is let in, the gateway lets all in with it, "
            "without asking the handler, until the session's deadline.",
            'Extract from a header or a form field, or use "regex" or "xpath" on the body.',
        )
    elif source not in EXTRACTOR_SOURCES or way not in EXTRACTOR_WAYS:
        yield _finding(
            api,
            Severity.ERROR,
            "id-extractor-invalid",
            extractor.place.path,
            f'The gateway has no ID extractor that takes "{way}" from "{source}".',
            "The gateway finds no ID: no session is reused, or requests are refused with 400.",
            "Take value, regex or xpath from header, form or body.",
        )


def check_duplicates(apis: list[Api]) -> Iterator[FileFinding]:
    """Definitions that are in each other's way."""
    by_id: dict[str, Api] = {}
    by_path: dict[tuple[str, str], Api] = {}
    twins = {api.document.path for api in apis if api.definition.is_oas}
    for api in apis:
        # The gateway itself writes NAME.json beside an OAS definition NAME-oas.json.
        if api.definition.made_from_oas and _oas_path(api.document.path) in twins:
            continue
        first = by_id.setdefault(api.api_id, api)
        if api.api_id and first is not api:
            yield _duplicate(
                api, first, "api-duplicate-id", api.definition.api_id.path, f'api id "{api.api_id}"'
            )
        listen_path = api.definition.listen_path
        path = listen_path.text().rstrip("/") + "/"
        first = by_path.setdefault((api.definition.domain.text(), path), api)
        if listen_path.text() and first is not api:
            yield _duplicate(
                api, first, "api-duplicate-path", listen_path.path, f'listen path "{listen_path.text()}"'
            )


def _oas_path(classic: Path) -> Path:
    return classic.with_name(f"{classic.stem}-oas.json")


def _duplicate(api: Api, first: Api, rule: str, path: str, what: str) -> FileFinding:
    return _finding(
        api,
        Severity.ERROR,
        rule,
        path,
        f"The {what} is also that of {first.document.path}.",
        "The gateway serves one of the two there; the other is dropped, or moved to another path.",
        "Give each API its own.",
    )


def _finding(
    api: Api, severity: Severity, rule: str, path: str, problem: str, effect: str, remedy: str
) -> FileFinding:
    return api.document.finding(severity, rule, path, problem, effect, remedy)
