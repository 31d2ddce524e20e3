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
_MARK = re.compile(r"@@(\w+)@@")


def create(name: str, parent: Path) -> list[Path]:
    """Write the project `name` below `parent`, and give its files.

    Raises ConfigError for a name that would not do in a URL and an image's name, and where something
    of that name is there.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name for a project. Expected: a letter first, then letters and digits, "
            "parts separated by - or _, 50 characters at most"
        )
    folder = parent / name
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: is there already, and stays as it is")
    values = {
        "name": name,
        # What an image may be called.
        "image": name.lower(),
        "version": coprocess.__version__,
        "source": installed_from(),
    }
    written = []
    for relative, text in sorted(_rendered(resources.files(__name__) / "templates", "", values)):
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def installed_from() -> str:
    """What pip installs this package by: its name, or the folder that it was installed from."""
    try:
        text = importlib.metadata.distribution("coprocess").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return "coprocess"
    origin = json.loads(text) if text else {}
    if "dir_info" in origin:
        folder = Path(unquote(urlsplit(origin["url"]).path))
        if folder.is_dir():
            return str(folder)
    return "coprocess"


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
