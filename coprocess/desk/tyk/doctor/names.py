"""Rules on names: of hooks and event handlers in definitions and manifests, against what is loaded."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from hashlib import md5
from pathlib import Path

from coprocess.api.moments import HookType
from coprocess.desk.findings import FileFinding, Severity
from coprocess.desk.json_files import read_json
from coprocess.desk.tyk.definition import HookUse, classic_events
from coprocess.desk.tyk.doctor.api import Api, webhook_handler
from coprocess.desk.tyk.doctor.document import Document
from coprocess.desk.tyk.doctor.project import Project
from coprocess.desk.tyk.doctor.rules import RULES
from coprocess.errors import ConfigError, UnknownHook
from coprocess.loading.hooks import Hook
from coprocess.loading.manifest import bundle_folders, manifests

_EFFECT = {
    HookType.CustomKeyCheck: "Every request is refused: 403, Key not authorised.",
    HookType.Event: "The event is logged as failed by the service, and nothing else happens.",
}
_EFFECT_OF_OTHERS = "Every request to the API is answered with 500, Middleware error."


def check_hooks(
    project: Project, hooks: Iterable[HookUse], document: Document, spec: Mapping[str, str]
) -> Iterator[FileFinding]:
    """Each hook must have its handler, found just as a request would find it.

    `document` names the hooks, `spec` is the API's.
    """
    for use in hooks:
        if not use.name.text():
            yield document.finding(
                Severity.ERROR,
                "hook-nameless",
                use.name.path,
                f"A {use.type.name} hook has no name.",
                _EFFECT.get(use.type, _EFFECT_OF_OTHERS),
                "Give it the name of a handler, or take it out.",
            )
            continue
        yield from check_name(project, use.type, use.name.text(), document, use.name.path, spec)


def spec_of(api: Api) -> dict[str, str]:
    """What the gateway will say of the API when it calls."""
    return {
        "APIID": api.api_id,
        "bundle_hash": md5(api.bundle.encode(), usedforsecurity=False).hexdigest(),
    }


def check_name(
    project: Project,
    hook_type: HookType,
    name: str,
    document: Document,
    path: str,
    spec: Mapping[str, str],
) -> Iterator[FileFinding]:
    """What is wrong with one name."""
    table = project.loaded.table
    try:
        table.choose(hook_type, name, spec.get("APIID", ""), spec.get("bundle_hash", ""))
    except UnknownHook:
        pass
    else:
        return
    effect = _EFFECT.get(hook_type, _EFFECT_OF_OTHERS)
    kind = "event" if hook_type is HookType.Event else hook_type.name
    namesakes = [hook for hook in table if hook.name == name]
    of_type = [hook for hook in namesakes if hook.type is hook_type]
    if of_type:
        places = ", ".join(f"{hook.source} ({_belongs(hook)})" for hook in of_type)
        yield document.finding(
            Severity.ERROR,
            "hook-ambiguous",
            path,
            f'The {kind} handlers named "{name}" are not this API\'s: {places}.',
            effect,
            "Declare the handler without api_id, or for this API; of bundles, name the right one here.",
        )
    elif namesakes:
        declared = ", ".join(dict.fromkeys(f"@{hook.type.name}" for hook in namesakes))
        yield document.finding(
            Severity.ERROR,
            "hook-wrong-decorator",
            path,
            f'"{name}" is named as a {kind} handler, but is declared with {declared} '
            f"at {namesakes[0].source}.",
            effect,
            f"Add @{hook_type.name} to the function, or name it where {declared} belongs.",
        )
    else:
        yield document.finding(
            Severity.ERROR,
            "hook-unknown",
            path,
            f'No {kind} handler "{name}" is loaded. {_near_misses(table, hook_type, name)}',
            effect,
            f"Correct the name, or write the handler: a function {name} with @{hook_type.name}.",
        )


def _belongs(hook: Hook) -> str:
    if hook.api_id is not None:
        return f'for API "{hook.api_id}"'
    return "of a bundle" if hook.bundle else "for every API"


def _near_misses(hooks: Iterable[Hook], hook_type: HookType, name: str) -> str:
    known: dict[str, list[Hook]] = {}
    for hook in hooks:
        known.setdefault(hook.name.lower(), []).append(hook)
    near = [
        hook
        for match in difflib.get_close_matches(name.lower(), known, n=4, cutoff=0.6)
        for hook in known[match]
    ]
    if near:
        shown = dict.fromkeys(f"{hook.name} (@{hook.type.name})" for hook in near)
        return f"Near it: {', '.join(shown)}."
    same = sorted({hook.name for group in known.values() for hook in group if hook.type is hook_type})
    if same:
        return f"{hook_type.name} handlers there are: {', '.join(same[:8])}{', …' if len(same) > 8 else ''}."
    return f"There is no {hook_type.name} handler at all."


def check_unused(project: Project) -> Iterator[FileFinding]:
    """Handlers that nothing names."""
    if not project.has_definitions:
        return
    # A bundle that was not given may name any handler.
    if any(api.bundle and project.bundle_of(api) is None for api in project.apis):
        return
    named = {
        (use.type, use.name.text())
        for api in project.apis
        for use in [*api.definition.hooks, *project.hooks_of(api)]
    }
    named |= {(use.type, use.name.text()) for bundle in project.bundles for use in bundle.hooks}
    named |= {(HookType.Event, use.function.text()) for api in project.apis for use in api.definition.events}
    named |= {(HookType.Event, name) for name in _named_by_webhooks(project)}
    named |= {(HookType.Event, event) for event in _triggered(project.loaded.files)}
    in_manifests = _names_in_manifests(project.settings.folders)
    seen = {hook.source for hook in project.loaded.table if hook.misfit and (hook.type, hook.name) in named}
    for hook in project.loaded.table:
        # @Hook is there for every type: one use is enough.
        types = [hook.type] if not hook.any_type else list(HookType)
        if hook.source in seen or any((each, hook.name) in named for each in types):
            continue
        if hook.name in in_manifests:
            continue
        if hook.any_type:
            seen.add(hook.source)
        yield RULES.finding(
            Severity.NOTE,
            "handler-unused",
            hook.source.path,
            "",
            f"No definition names the {hook.type.name} handler {hook.name}.",
            "It is loaded, and never called.",
            "Name it in a definition, or take it out, if that was not the intention.",
            hook.source.line,
        )


def _names_in_manifests(folders: Iterable[Path]) -> set[str]:
    """All names in manifests of served bundles: whatever they are for, somebody names them."""
    names: set[str] = set()
    for folder in folders:
        bundles = [folder, *bundle_folders(folder)] if folder.is_dir() else []
        for path in [path for bundle in bundles for path in manifests(bundle)]:
            try:
                middleware = read_json(path)["custom_middleware"]
                entries = [entry for value in middleware.values() for entry in _as_list(value)]
            except (ConfigError, KeyError, TypeError, AttributeError):
                continue
            names |= {str(entry["name"]) for entry in entries if isinstance(entry, dict) and "name" in entry}
    return names


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _triggered(files: Iterable[Path]) -> set[str]:
    """The events that handler code triggers itself, where their name is written out."""
    names: set[str] = set()
    modules = [path for file in files for path in (file.rglob("*.py") if file.is_dir() else [file])]
    for path in modules:
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                called = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if called == "trigger_event":
                    names.add(str(node.args[0].value))
    return names


def _named_by_webhooks(project: Project) -> Iterator[str]:
    urls = [use.meta["target_path"] for api in project.apis for use in api.definition.events if use.meta]
    urls += [listener["url"] for api in project.apis for listener in api.webhooks]
    with suppress(ConfigError):  # A file of the wrong form is found elsewhere.
        if (conf := project.conf) is not None:
            urls += [use.meta["target_path"] for use in classic_events(conf.root["event_handlers"]["events"])]
            urls.append(conf.root["monitor"]["configuration"]["target_path"])
    for url in urls:
        if isinstance(url.value, str):
            yield webhook_handler(url.value)
