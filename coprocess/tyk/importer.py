"""Takes a bundle of the gateway's embedded Python driver over: what works as it is, and what does not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from coprocess.errors import ConfigError
from coprocess.hooks import HookType
from coprocess.loader import MANIFEST
from coprocess.tyk.bundle import (
    Bundle,
    BundleError,
    checksum,
    extract,
    manifest_bytes,
    read_bundle,
    with_manifest,
    write_atomically,
    zip_bytes,
)
from coprocess.tyk.bundle_build import AUTH, LISTS
from coprocess.tyk.importer_source import Concern, source_concerns

#: How long the plugin's modules may take to load.
LOAD_TIMEOUT_S = 60.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FoundHook:
    """A handler that could be loaded."""

    type: HookType
    name: str
    file: Path
    line: int
    any_type: bool
    misfit: bool


@dataclass(slots=True)
class Report:
    """What came of an import."""

    name: str
    works: list[str] = field(default_factory=list)
    #: Loaded, but something in their module needs a hand.
    loads: list[str] = field(default_factory=list)
    concerns: list[Concern] = field(default_factory=list)
    #: `custom_middleware` for grpc.
    middleware: dict[str, Any] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)


def inspect_bundle(path: Path) -> tuple[Bundle, Report]:
    """Load the bundle in a process of its own and look at its source. Nothing is written.

    Raises BundleError where it cannot be read at all.
    """
    bundle = with_manifest(read_bundle(path))
    if not any(name.endswith(".py") for name in bundle.files):
        raise BundleError(f"{path}: has no Python files")
    manifest = bundle.manifest if MANIFEST in bundle.files else {}
    report = Report(_name_of(path))
    # A copy, also of a folder: what the plugin does to its own files on loading stays there.
    with tempfile.TemporaryDirectory(prefix="coprocess-import-") as scratch:
        folder = Path(scratch).resolve() / report.name
        extract(bundle, folder)
        hooks, problems = _probe(folder)
        concerns = [*source_concerns(folder, manifest.get("file_list") or []), *problems]
        report.concerns = list(_without_repetition(concerns, folder))
        hooks = [replace(hook, file=_relative(hook.file, folder)) for hook in hooks]
    _match(report, hooks, manifest.get("custom_middleware") or {})
    doubtful = tuple(f"{concern.file}:" for concern in report.concerns if concern.file != Path(MANIFEST))
    report.loads = [line for line in report.works if line.startswith(doubtful)]
    report.works = [line for line in report.works if not line.startswith(doubtful)]
    return bundle, report


def _name_of(path: Path) -> str:
    stem = path.resolve().name
    stem = stem.removesuffix(".zip") if path.is_file() else stem
    return re.sub(r"[^\w.-]", "-", stem).strip(".-") or "bundle"


def _probe(folder: Path) -> tuple[list[FoundHook], list[Concern]]:
    output = folder.parent / "probe.json"
    command = [sys.executable, "-m", "coprocess.tyk.import_probe", str(folder), str(output)]
    try:
        done = subprocess.run(  # noqa: S603 - our own module, on the bundle that the user named
            command, capture_output=True, text=True, timeout=LOAD_TIMEOUT_S, check=False, cwd=folder.parent
        )
    except subprocess.TimeoutExpired:
        remedy = "Look for code that runs when a module is imported, and move it into a function"
        return [], [Concern(folder, 0, f"loading did not end within {LOAD_TIMEOUT_S:.0f} s", remedy)]
    try:
        return _read_probe(output.read_text())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        # The plugin may also have written what is no answer.
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or ["nothing was said"]
        problem = f"loading ended the process (status {done.returncode}): {last[0]}"
        return [], [Concern(folder, 0, problem, "Look for code that runs when a module is imported")]


def _read_probe(text: str) -> tuple[list[FoundHook], list[Concern]]:
    content = json.loads(text)
    hooks = [
        FoundHook(
            HookType[hook["type"]],
            _as(str, hook["name"]),
            Path(hook["file"]),
            _as(int, hook["line"]),
            _as(bool, hook["any_type"]),
            _as(bool, hook["misfit"]),
        )
        for hook in content["hooks"]
    ]
    return hooks, [_concern(problem) for problem in content["problems"]]


def _as(kind: type[T], value: object) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def _concern(problem: dict[str, str]) -> Concern:
    path = Path(problem["file"])
    found = re.match(rf"{re.escape(str(path))}(?::(\d+))?: ", problem["text"])
    text = problem["text"][found.end() :] if found else problem["text"]
    line = int(found[1] or 0) if found else 0
    return Concern(path, line, text.rstrip("."), "It cannot be loaded until that is mended")


def _without_repetition(concerns: list[Concern], folder: Path) -> Iterator[Concern]:
    # The source tells more exactly what loading stumbles over too: the first of a line stays.
    seen: set[tuple[Path, int]] = set()
    for concern in concerns:
        if not concern.line or (concern.file, concern.line) not in seen:
            seen.add((concern.file, concern.line))
            text = concern.problem.replace(f"{folder}/", "")
            yield Concern(_relative(concern.file, folder), concern.line, text, concern.remedy)


def _relative(path: Path, folder: Path) -> Path:
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def _match(report: Report, hooks: list[FoundHook], middleware: dict[str, Any]) -> None:
    """The manifest's hooks with the functions; without a manifest, the functions as they declare."""
    by_key = {(hook.type, hook.name): hook for hook in hooks}
    report.events = sorted({hook.name for hook in hooks if hook.type is HookType.Event})
    used: set[tuple[Path, int]] = set()
    result: dict[str, Any] = {}
    for hook_type, entry in _entries(middleware):
        name = str(entry.get("name") or "")
        found = by_key.get((hook_type, name))
        _put(result, hook_type, {**entry, "path": ""} if "path" in entry else entry)
        if found is not None:
            used.add((found.file, found.line))
            report.works.append(f"{found.file}:{found.line}: {name}, as {hook_type.name}")
            continue
        others = sorted({hook.type.name for hook in hooks if hook.name == name})
        problem = f'the manifest names the {hook_type.name} hook "{name}", which no function is'
        remedy = (
            f"There is one for {', '.join(others)}: add @{hook_type.name} to it"
            if others
            else "Correct the name, or mend what keeps its module from loading"
        )
        report.concerns.append(Concern(Path(MANIFEST), 0, problem, remedy))
    for hook in sorted(hooks, key=lambda hook: (str(hook.file), hook.line)):
        if (hook.file, hook.line) in used or hook.misfit:
            continue
        if hook.type is HookType.Event:
            report.works.append(f"{hook.file}:{hook.line}: {hook.name}, as event handler")
            continue
        if hook.any_type:
            used.add((hook.file, hook.line))
            remedy = "Name it in the definition, or declare it with @Pre, @Post, …"
            report.concerns.append(
                Concern(hook.file, hook.line, f"@Hook on {hook.name} does not say when it runs", remedy)
            )
            continue
        taken = hook.type is HookType.CustomKeyCheck and AUTH in result
        if middleware or taken:
            remedy = "Name it there, if it is to be called"
            problem = f"no manifest names the {hook.type.name} handler {hook.name}"
            report.concerns.append(Concern(hook.file, hook.line, problem, remedy))
            continue
        _put(result, hook.type, {"name": hook.name})
        report.works.append(f"{hook.file}:{hook.line}: {hook.name}, as {hook.type.name}")
    extractor = middleware.get("id_extractor")
    report.middleware = {**result, **({"id_extractor": extractor} if extractor else {}), "driver": "grpc"}


def _entries(middleware: dict[str, Any]) -> Iterator[tuple[HookType, dict[str, Any]]]:
    for hook_type, key in LISTS.items():
        for entry in middleware.get(key) or []:
            if isinstance(entry, dict):
                yield hook_type, entry
    auth = middleware.get(AUTH)
    if isinstance(auth, dict) and auth.get("name"):
        yield HookType.CustomKeyCheck, auth


def _put(middleware: dict[str, Any], hook_type: HookType, entry: dict[str, Any]) -> None:
    if hook_type is HookType.CustomKeyCheck:
        middleware[AUTH] = entry
    else:
        middleware.setdefault(LISTS[hook_type], []).append(entry)


def write_import(bundle: Bundle, report: Report, output: Path) -> list[Path]:
    """Write handlers, gRPC bundle and definition below `output`, and give their paths.

    Raises ConfigError where one is there already.
    """
    folder = output / "handlers" / report.name
    definition = output / "apis" / f"{report.name}.json"
    archive = output / "bundles" / f"{report.name}.zip"
    for path in (folder, definition, archive):
        if path.exists():
            raise ConfigError(f"{path}: is there already, and stays as it is")
    manifest = manifest_bytes(
        {
            "file_list": [],
            "custom_middleware": report.middleware,
            "checksum": checksum(b""),
            "signature": "",
        }
    )
    extract(bundle, folder)
    # The handlers' own says, beside that, which files are run.
    write_atomically(folder / MANIFEST, _own_manifest(bundle, manifest))
    write_atomically(archive, zip_bytes({MANIFEST: manifest}))
    write_atomically(definition, manifest_bytes(definition_of(report)))
    return [folder, definition, archive]


def _own_manifest(bundle: Bundle, manifest: bytes) -> bytes:
    listed = bundle.manifest.get("file_list") or [] if MANIFEST in bundle.files else []
    try:
        content = bundle.signed_bytes(listed)
    except BundleError:  # One is missing: which are to be run, is not known.
        return manifest
    return manifest_bytes({**json.loads(manifest), "file_list": listed, "checksum": checksum(content)})


def definition_of(report: Report) -> dict[str, Any]:
    """A classic definition that calls the handlers. Path and target are examples."""
    has_auth = AUTH in report.middleware
    definition: dict[str, Any] = {
        "name": report.name,
        "api_id": report.name,
        "org_id": "default",
        "active": True,
        "use_keyless": not has_auth,
        "definition": {"location": "header", "key": "version"},
        "version_data": {
            "not_versioned": True,
            "versions": {"Default": {"name": "Default", "use_extended_paths": True}},
        },
        "proxy": {
            "listen_path": f"/{report.name}/",
            "target_url": "http://127.0.0.1:8000/",
            "strip_listen_path": True,
        },
        "custom_middleware": report.middleware,
    }
    if has_auth:
        definition["enable_coprocess_auth"] = definition["custom_plugin_auth_enabled"] = True
        definition["auth"] = {"auth_header_name": "Authorization"}
    if report.events:
        # Which event each is for, its code alone knows.
        listeners = [
            {"handler_name": "cp_dynamic_handler", "handler_meta": {"name": name}} for name in report.events
        ]
        definition["event_handlers"] = {"events": {"AuthFailure": listeners}}
    return definition
