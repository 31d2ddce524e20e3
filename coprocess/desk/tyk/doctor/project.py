"""What the doctor looks at, read in: nothing here judges, but of what cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coprocess.desk.findings import FileFinding, Severity
from coprocess.desk.tyk.bundle import Bundle, BundleError, read_bundle
from coprocess.desk.tyk.definition import HookUse, classic_hooks
from coprocess.desk.tyk.doctor.api import Api, read_api
from coprocess.desk.tyk.doctor.document import Document, parse_document, read_document
from coprocess.desk.tyk.doctor.rules import RULES
from coprocess.errors import ConfigError
from coprocess.gateways.tyk.home import HOME
from coprocess.loading import loader
from coprocess.loading.handler_files import module_paths
from coprocess.loading.loaded import Loaded
from coprocess.loading.manifest import MANIFEST
from coprocess.process.config import Settings

_API_NOT_LOADED = "The gateway does not load this API: requests to its path get 404."
_CONF_NOT_LOADED = "The gateway does not start, or starts with its defaults, without plugins."
_BUNDLE_REFUSED = "The gateway does not load this bundle: APIs that name it run without its hooks."

#: One of these makes a JSON file in a folder an API definition.
_SIGNS_OF_AN_API = ("api_id", "proxy", "x-tyk-api-gateway", "api_definition")


@dataclass(frozen=True, slots=True)
class BundleManifest:
    """A bundle with a manifest that can be read."""

    bundle: Bundle
    document: Document
    hooks: Sequence[HookUse]

    @property
    def names(self) -> tuple[str, str]:
        """What a definition may call it."""
        name = self.bundle.path.resolve().name
        return name, f"{name}.zip"

    def finding(
        self, severity: Severity, rule: str, json_path: str, problem: str, effect: str, remedy: str
    ) -> FileFinding:
        return self.document.finding(severity, rule, json_path, problem, effect, remedy)


@dataclass(slots=True)
class Project:
    """All that was given, as far as it can be read; `findings` tell of the rest."""

    settings: Settings
    loaded: Loaded
    conf: Document | None = None
    apis: list[Api] = field(default_factory=list)
    bundles: list[BundleManifest] = field(default_factory=list)
    #: Whether definitions were asked for: without any, handlers that none names are no news.
    has_definitions: bool = False
    findings: list[FileFinding] = field(default_factory=list)

    def bundle_of(self, api: Api) -> BundleManifest | None:
        """The bundle that the definition names, if it was given."""
        return next((bundle for bundle in self.bundles if api.bundle in bundle.names), None)

    def hooks_of(self, api: Api) -> Sequence[HookUse]:
        """The hooks that the gateway calls for the API: its bundle's, where it names one."""
        if not api.bundle:
            return api.definition.hooks
        bundle = self.bundle_of(api)
        return bundle.hooks if bundle else ()


def read_project(
    settings: Settings, *, conf: Path | None, apis: Iterable[Path], bundles: Iterable[Path]
) -> Project:
    """Read everything. Raises ConfigError for a path that does not exist, LoadError for a handler folder."""
    bundles = list(bundles)
    manifests: list[BundleManifest] = []
    findings: list[FileFinding] = []
    for path in bundles:
        for found in _bundle_paths(path):
            _read_manifest(found, manifests, findings)
    folders = list(settings.folders)
    # A bundle's own code, given as a folder, is served from there as it is from `handlers`.
    for manifest in manifests:
        path = manifest.bundle.path
        known = any(path.resolve().is_relative_to(folder.resolve()) for folder in folders)
        if path.is_dir() and not known and module_paths(path):
            folders.append(path)
    project = Project(settings, loader.load(folders, HOME), findings=findings, bundles=manifests)
    if conf is not None:
        project.conf = _object(read_document(_existing(conf), _CONF_NOT_LOADED), project, _CONF_NOT_LOADED)
    for path in apis:
        project.has_definitions = True
        for file in _definition_files(_existing(path)):
            _read_definition(file, project, named=file == path)
    return project


def _existing(path: Path) -> Path:
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder")
    return path


def _object(document: Document | FileFinding, project: Project, effect: str) -> Document | None:
    if isinstance(document, FileFinding):
        project.findings.append(document)
        return None
    if not isinstance(document.value, dict):
        error = ConfigError(f"{document.path}: the document: must be an object")
        project.findings.append(document.malformed(error, effect))
        return None
    return document


def _definition_files(path: Path) -> list[Path]:
    return sorted(path.glob("*.json")) if path.is_dir() else [path]


def _read_definition(file: Path, project: Project, *, named: bool) -> None:
    document = read_document(file, _API_NOT_LOADED)
    if not named and isinstance(document, Document) and not _looks_like_api(document.value):
        return
    if (checked := _object(document, project, _API_NOT_LOADED)) is None:
        return
    try:
        project.apis.append(read_api(checked))
    except ConfigError as error:
        project.findings.append(checked.malformed(error, _API_NOT_LOADED))


def _looks_like_api(value: Any) -> bool:
    return isinstance(value, dict) and any(sign in value for sign in _SIGNS_OF_AN_API)


def _bundle_paths(path: Path) -> list[Path]:
    _existing(path)
    if not path.is_dir() or (path / MANIFEST).is_file():
        return [path]
    found = sorted([*path.glob("*.zip"), *(manifest.parent for manifest in path.glob(f"*/{MANIFEST}"))])
    return found or [path]


def _read_manifest(path: Path, manifests: list[BundleManifest], findings: list[FileFinding]) -> None:
    try:
        bundle = read_bundle(path)
        text = bundle.manifest_text
    except BundleError as error:
        findings.append(
            RULES.finding(
                Severity.ERROR,
                "manifest-missing",
                path,
                "",
                f"{str(error).removeprefix(f'{path}: ').capitalize()}.",
                _BUNDLE_REFUSED,
                "Make it with `coprocess bundle build DIR`.",
            )
        )
        return
    # A zip's manifest has no path of its own: the zip is the file to look at.
    file = path / MANIFEST if path.is_dir() else path
    document = parse_document(file, text, _BUNDLE_REFUSED)
    if isinstance(document, FileFinding):
        findings.append(document)
        return
    try:
        for name in document.root["file_list"]:
            name.required()
        manifests.append(BundleManifest(bundle, document, classic_hooks(document.root["custom_middleware"])))
    except ConfigError as error:
        findings.append(document.malformed(error, _BUNDLE_REFUSED))
