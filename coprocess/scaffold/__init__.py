"""A new project: every file that a first `make test` and a first `docker compose up` need."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import coprocess
from coprocess.errors import ConfigError

# As an image's name, too: no two separators together, and none at the end.
_NAME = re.compile(r"(?=.{1,50}\Z)[A-Za-z][A-Za-z0-9]*([-_][A-Za-z0-9]+)*")
_SUFFIX = ".tmpl"
_BY_NAME = "coprocess"
#: What is written for each gateway, beside what is the same: marks in the files, and files of its own.
GATEWAYS: dict[str, dict[str, str]] = {
    "tyk": {
        "extras": "",
        "doctor": "doctor",
        "configuration": "tyk.conf, apis/",
        "containers": "gateway, Redis",
        "path": "@@name@@/",
    },
    "envoy": {
        "extras": "[envoy]",
        "doctor": "envoy doctor",
        "configuration": "envoy.yaml",
        "containers": "Envoy, Redis",
        "path": "",
    },
    "kong": {},
}
#: Those whose files are all their own.
_APART = ("kong",)
_ONLY_TYK = ("apis/NAME.json.tmpl", "tyk.conf.tmpl")
_MARK = re.compile(r"@@(\w+)@@")


def create(name: str, parent: Path, gateway: str = "tyk") -> list[Path]:
    """Write the project `name` below `parent`, for one of GATEWAYS, and give its files.

    Raises ConfigError for a name that would not do in a URL and an image's name, where something of that
    name is there, and where a file cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name for a project. Expected: a letter first, then letters and digits, "
            "parts separated by - or _, 50 characters at most"
        )
    folder = parent / name
    if _is_taken(folder):
        raise ConfigError(f"{folder}: is there already, and stays as it is")
    values = {
        "name": name,
        # What an image may be called.
        "image": name.lower(),
        # How settings of kong.conf spell it.
        "server": name.lower().replace("-", "_"),
        "version": coprocess.__version__,
        "source": _in_make(installed_from()),
        "public_source": public_source(),
    }
    own = {key: text.replace("@@name@@", name) for key, text in GATEWAYS[gateway].items()}
    templates = dict(_found(resources.files(__name__) / "templates", ""))
    if gateway in _APART:
        templates = dict(_found(resources.files(__name__) / f"templates_{gateway}", ""))
    elif gateway != "tyk":
        templates = {path: entry for path, entry in templates.items() if path not in _ONLY_TYK}
        templates |= dict(_found(resources.files(__name__) / f"templates_{gateway}", ""))
    written = []
    for relative, text in sorted(_rendered(templates, values | own)):
        path = folder / relative
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from None
        written.append(path)
    return written


def _is_taken(folder: Path) -> bool:
    try:
        return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be read: {error.strerror or error}") from None


def installed_from() -> str:
    """What pip installs this package by: its name, or the folder, wheel or URL that it was installed from."""
    try:
        text = importlib.metadata.distribution("coprocess").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return _BY_NAME
    origin = json.loads(text) if text else {}
    url = origin.get("url", "")
    if "vcs_info" in origin:
        return f"{origin['vcs_info']['vcs']}+{url}@{origin['vcs_info']['commit_id']}"
    if url.startswith("file:"):
        path = Path(unquote(urlsplit(url).path))
        return str(path) if path.exists() else _BY_NAME
    return url or _BY_NAME


def public_source() -> str:
    """As `installed_from`, for another machine: a path there is none here."""
    source = installed_from()
    return source if "://" in source and "file://" not in source else _BY_NAME


def _in_make(text: str) -> str:
    """`text` as the value of a variable in a Makefile."""
    return text.replace("$", "$$").replace("#", r"\#")


def _found(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _found(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(_SUFFIX):
            yield f"{prefix}{entry.name}", entry


def _rendered(templates: Mapping[str, Traversable], values: dict[str, str]) -> list[tuple[str, str]]:
    files = []
    for path, entry in templates.items():
        parts = [
            part.replace("dot-", ".", 1) if part.startswith("dot-") else part for part in path.split("/")
        ]
        target = "/".join(parts).removesuffix(_SUFFIX).replace("NAME", values["name"])
        files.append((target, _MARK.sub(lambda mark: values[mark[1]], entry.read_text(encoding="utf-8"))))
    return files
