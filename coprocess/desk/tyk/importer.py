"""Takes a bundle of the gateway's embedded Python driver over: what works as it is, and what does not."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from coprocess.api.functions import Source
from coprocess.api.moments import HookType
from coprocess.desk.findings import FileFinding
from coprocess.desk.json_files import read_json
from coprocess.desk.tyk.bundle import (
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
from coprocess.desk.tyk.definition import AUTH, LISTS, PLUGIN_HANDLER
from coprocess.desk.tyk.doctor.code import check_handlers
from coprocess.desk.tyk.importer_source import Concern, not_installed, source_concerns
from coprocess.desk.tyk.importer_structure import server_concerns, state_concerns
from coprocess.desk.tyk.missing_modules import REMEDY, missing_module
from coprocess.errors import ConfigError
from coprocess.loading.hooks import Hook, Plan
from coprocess.loading.manifest import MANIFEST
from coprocess.text import printable

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
    is_async: bool
    style: str


@dataclass(slots=True)
class Report:
    """What came of an import."""

    name: str
    works: list[str] = field(default_factory=list)
    #: Loaded, but something in their module needs a hand.
    loads: list[str] = field(default_factory=list)
    concerns: list[Concern] = field(default_factory=list)
    #: What `coprocess doctor` says of the handlers' code, with files relative to the bundle.
    findings: list[FileFinding] = field(default_factory=list)
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
        entries, concerns = _read_entries(manifest)
        hooks, problems = _probe(folder)
        listed = manifest.get("file_list") or []
        servers, served = server_concerns(folder, {name: hook_type for hook_type, name, _ in entries})
        concerns += [*servers, *source_concerns(folder, listed), *problems]
        concerns += state_concerns(folder, [(hook.file, hook.line, hook.name) for hook in hooks])
        report.concerns = list(_without_repetition(concerns, folder))
        report.findings = _findings(hooks, {(hook_type, name) for hook_type, name, _ in entries}, folder)
        hooks = [replace(hook, file=_relative(hook.file, folder)) for hook in hooks]
    _match(report, hooks, entries, served)
    extractor = manifest["custom_middleware"].get("id_extractor") if entries else None
    if isinstance(extractor, dict) and extractor:
        report.middleware["id_extractor"] = extractor
    report.middleware["driver"] = "grpc"
    doubtful = tuple(f"{concern.file}:" for concern in report.concerns if concern.file != Path(MANIFEST))
    report.loads = [line for line in report.works if line.startswith(doubtful)]
    report.works = [line for line in report.works if not line.startswith(doubtful)]
    return bundle, report


def _name_of(path: Path) -> str:
    stem = path.resolve().name
    stem = stem.removesuffix(".zip") if path.is_file() else stem
    return re.sub(r"[^\w.-]", "-", stem).strip(".-") or "bundle"


def _probe(folder: Path) -> tuple[list[FoundHook], list[Concern]]:
    result, said = folder.parent / "probe.json", folder.parent / "output"
    command = [sys.executable, "-m", "coprocess.desk.tyk.import_probe", str(folder), str(result)]
    with said.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own module, on the bundle that the user named
            command,
            cwd=folder.parent,
            stdin=subprocess.DEVNULL,
            # A file: of a pipe, a process that the plugin starts could hold the other end for ever.
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        status = process.wait(LOAD_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        remedy = "Look for code that runs when a module is imported, and move it into a function"
        return [], [Concern(folder, 0, f"loading did not end within {LOAD_TIMEOUT_S:.0f} s", remedy)]
    finally:
        # With all that the plugin started.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    remedy = "Look for code that runs when a module is imported"
    if not result.exists():
        problem = f"loading ended the process (status {status}): {_last_line(said)}"
        return [], [Concern(folder, 0, problem, remedy)]
    try:
        # The plugin's code ran in that process: what is there may be of its making.
        content = read_json(result)
        hooks = [_hook_of(hook) for hook in content["hooks"]]
        problems = [_concern(problem) for problem in content["problems"]]
    except (ConfigError, KeyError, ValueError, TypeError, AttributeError):
        return [], [Concern(folder, 0, "the plugin's code changed what loading says of it", remedy)]
    return hooks, problems


_TAIL_BYTES = 4096


def _last_line(said: Path) -> str:
    with said.open("rb") as stream:
        stream.seek(max(stream.seek(0, os.SEEK_END) - _TAIL_BYTES, 0))
        lines = stream.read().decode(errors="replace").strip().splitlines()
    return printable(lines[-1]) if lines else "nothing was said"


def _hook_of(entry: dict[str, Any]) -> FoundHook:
    name, line, style = entry["name"], entry["line"], entry["style"]
    if not (isinstance(name, str) and type(line) is int and isinstance(style, str)):
        raise TypeError
    return FoundHook(
        HookType[entry["type"]], name, Path(entry["file"]), line, entry["any_type"] is True,
        entry["misfit"] is True, entry["is_async"] is True, style,
    )  # fmt: skip


def _concern(problem: dict[str, Any]) -> Concern:
    file, text = problem["file"], problem["text"]
    if not (isinstance(file, str) and isinstance(text, str)):
        raise TypeError
    path = Path(file)
    found = re.match(rf"{re.escape(str(path))}(?::(\d+))?: ", text)
    line = int(found[1] or 0) if found else 0
    if module := missing_module(text):
        return not_installed(path, line, module)
    text = text[found.end() :] if found else text
    return Concern(path, line, text.rstrip("."), "It cannot be loaded until that is mended")


def _findings(hooks: list[FoundHook], named: set[tuple[HookType, str]], folder: Path) -> list[FileFinding]:
    """What the doctor says of the code, which must be there still."""
    functions: dict[tuple[Path, int], Any] = {}
    table = [
        Hook(
            hook.type,
            hook.name,
            # Of one place in the source is one function.
            function := functions.setdefault((hook.file, hook.line), lambda: None),
            function,
            _NO_PLAN,
            hook.is_async,
            hook.style,
            Source(hook.file, hook.line),
            any_type=hook.any_type,
        )
        for hook in hooks
    ]
    found = {replace(each, file=_relative(each.file, folder)) for each in check_handlers(table, named)}
    return sorted(found, key=lambda finding: finding.order)


_NO_PLAN = Plan(arguments=lambda _: (), accept=lambda _, __: None)


def _without_repetition(concerns: list[Concern], folder: Path) -> Iterator[Concern]:
    # The source tells more exactly what loading stumbles over too: the first of a line stays.
    seen: set[tuple[Path, int]] = set()
    told = {module for concern in concerns if concern.remedy != REMEDY for module in concern.covers}
    wanted: dict[str, list[Concern]] = {}
    for concern in concerns:
        if concern.remedy == REMEDY:
            wanted.setdefault(concern.covers[0], []).append(concern)
    for concern in concerns:
        if concern.line and (concern.file, concern.line) in seen:
            continue
        seen.add((concern.file, concern.line))
        text = concern.problem.replace(f"{folder}/", "")
        if concern.remedy == REMEDY:
            module = concern.covers[0]
            if module in told or module.partition(".")[0] in told:
                continue
            told.add(module)
            places = dict.fromkeys(f"{_relative(each.file, folder)}:{each.line}" for each in wanted[module])
            others = list(places)[1:]
            text += f" (also for {', '.join(others)})" if others else ""
        yield replace(concern, file=_relative(concern.file, folder), problem=text)


def _relative(path: Path, folder: Path) -> Path:
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def _match(report: Report, hooks: list[FoundHook], entries: list[Entry], served: set[str]) -> None:
    """The manifest's hooks with the functions; without a manifest, the functions as they declare."""
    by_key = {(hook.type, hook.name): hook for hook in hooks}
    report.events = sorted({hook.name for hook in hooks if hook.type is HookType.Event})
    used: set[tuple[Path, int]] = set()
    result = report.middleware
    for hook_type, name, entry in entries:
        found = by_key.get((hook_type, name))
        _put(result, hook_type, {**entry, "path": ""} if "path" in entry else entry)
        if found is not None:
            used.add((found.file, found.line))
            report.works.append(f"{found.file}:{found.line}: {name}, as {hook_type.name}")
            continue
        if name in served:  # Told with the server that has it.
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
        if entries or taken:
            remedy = "Name it there, if it is to be called"
            problem = f"no manifest names the {hook.type.name} handler {hook.name}"
            report.concerns.append(Concern(hook.file, hook.line, problem, remedy))
            continue
        _put(result, hook.type, {"name": hook.name})
        report.works.append(f"{hook.file}:{hook.line}: {hook.name}, as {hook.type.name}")


#: Of a manifest: when the hook runs, its name, and all that is said of it.
Entry = tuple[HookType, str, dict[str, Any]]


def _read_entries(manifest: dict[str, Any]) -> tuple[list[Entry], list[Concern]]:
    """The manifest's hooks, and what in it is of another kind than the gateway takes."""
    concerns: list[Concern] = []

    def wrong(place: str, value: object, expected: str) -> None:
        problem = f"{place} is {value!r:.60}. Expected: {expected}"
        concerns.append(Concern(Path(MANIFEST), 0, problem, "The gateway refuses the manifest as it is"))

    middleware = manifest.get("custom_middleware") or {}
    if not isinstance(middleware, dict):
        wrong("custom_middleware", middleware, "an object")
        return [], concerns
    found: list[tuple[HookType, str, Any]] = []
    for hook_type, key in LISTS.items():
        listed = middleware.get(key) or []
        if not isinstance(listed, list):
            wrong(f"custom_middleware.{key}", listed, "a list of hooks")
            continue
        found += [(hook_type, f"{key}[{index}]", entry) for index, entry in enumerate(listed)]
    if middleware.get(AUTH):
        found.append((HookType.CustomKeyCheck, AUTH, middleware[AUTH]))
    entries: list[Entry] = []
    for hook_type, place, entry in found:
        if not isinstance(entry, dict):
            wrong(f"custom_middleware.{place}", entry, 'an object, as {"name": "MyHook"}')
        elif not isinstance(name := entry.get("name") or "", str):
            wrong(f"custom_middleware.{place}.name", name, "text")
        elif name or hook_type is not HookType.CustomKeyCheck:  # Go writes an empty auth_check.
            entries.append((hook_type, name, entry))
    return entries, concerns


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
            {"handler_name": PLUGIN_HANDLER, "handler_meta": {"name": name}} for name in report.events
        ]
        definition["event_handlers"] = {"events": {"AuthFailure": listeners}}
    return definition
