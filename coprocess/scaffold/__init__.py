"""A new project: every file that a first `make test` and a first `docker compose up` need."""

from __future__ import annotations

import importlib.metadata
import json
import re
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import coprocess
from coprocess.errors import ConfigError

# As an image's name, too: no two separators together, and none at the end.
_NAME = re.compile(r"(?=.{1,50}\Z)[A-Za-z][A-Za-z0-9]*([-_][A-Za-z0-9]+)*")
_SUFFIX = ".tmpl"
#: Gateway → the folder of its project's files.
TEMPLATES = {"tyk": "templates", "kong": "kong_templates"}
_BY_NAME = "coprocess"
_MARK = re.compile(r"@@(\w+)@@")


def create(name: str, parent: Path, gateway: str = "tyk") -> list[Path]:
    """Write the project `name` below `parent`, and give its files. `gateway` is a key of TEMPLATES.

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
    written = []
    for relative, text in sorted(_rendered(resources.files(__name__) / TEMPLATES[gateway], "", values)):
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


def _rendered(folder: Traversable, prefix: str, values: dict[str, str]) -> list[tuple[str, str]]:
    files = []
    for entry in folder.iterdir():
        name = entry.name.replace("dot-", ".", 1) if entry.name.startswith("dot-") else entry.name
        if entry.is_dir():
            files += _rendered(entry, f"{prefix}{name}/", values)
        elif name.endswith(_SUFFIX):
            target = f"{prefix}{name.removesuffix(_SUFFIX)}".replace("NAME", values["name"])
            text = _MARK.sub(lambda mark: values[mark[1]], entry.read_text(encoding="utf-8"))
            files.append((target, text))
    return files
