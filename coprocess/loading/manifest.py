"""A folder's manifest, which makes it a bundle, and the files of a folder that are run.

A gateway's embedded driver runs one file of a bundle, and what that imports. Its bundler may be given a
manifest of any name, so one is known by what it says, where none has the usual name.
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from coprocess.bounded import cut
from coprocess.errors import LoadError

MANIFEST = "manifest.json"

#: What the embedded driver runs of a bundle with several files.
_ENTRY = "middleware.py"
#: What test runners, build tools and `python FOLDER` run, and nobody imports for its hooks.
_NO_HANDLERS = (
    *("test_*.py", "*_test.py", "tests.py", "conftest.py"),
    *("setup.py", "noxfile.py", "fabfile.py", "__main__.py"),
)
_NO_HANDLER_FOLDERS = ("test", "tests")
#: A file with more than this is data.
_LARGEST_BYTES = 2**20
_LONGEST_SHOWN = 200


def manifests(folder: Path) -> list[Path]:
    """The manifest of the bundle in `folder`; several where none is called manifest.json; else none."""
    if (folder / MANIFEST).is_file():
        return [folder / MANIFEST]
    return [path for path in sorted(folder.glob("*.json")) if _is_manifest(path)]


def _is_manifest(path: Path) -> bool:
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_BYTES:
            return False
        return looks_like_manifest(path.read_bytes())
    except OSError:
        return False


def looks_like_manifest(content: bytes) -> bool:
    """Whether a JSON file is a manifest, by what it says: it lists files and names hooks."""
    if b'"custom_middleware"' not in content or b'"file_list"' not in content:
        return False
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(found, dict)
        and isinstance(found.get("custom_middleware"), dict)
        and isinstance(found.get("file_list"), list)
    )


def bundle_folders(folder: Path) -> list[Path]:
    """The bundles that lie directly in `folder`."""
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and manifests(path)]


def entries(manifest: Path) -> list[str] | None:
    """The files that are run of a bundle, by their path in it; None: it lists none, so all are.

    A single file is run whatever it is called; of several, `middleware.py`. Where that is not among
    them, all that lie directly in the bundle are, but tests. Raises LoadError.
    """
    names = [name for name in listed_files(manifest) if name.endswith(".py")]
    if len(names) > 1:
        direct = [name for name in names if "/" not in name and not is_left_out(Path(name))]
        names = [_ENTRY] if _ENTRY in names else direct or names
    for name in names:
        if name.startswith("../"):
            raise LoadError(f"{manifest}: file_list has {cut(name, _LONGEST_SHOWN)}, which leads out of it")
        if not _is_file(manifest.parent / name):
            shown = cut(name, _LONGEST_SHOWN)
            raise LoadError(f"{manifest}: file_list has {shown}, which is not in the folder")
    return [name for name in names if name != "__init__.py"] or None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # As for a name that is too long.
        return False


def listed_files(manifest: Path) -> list[str]:
    """The `file_list` of a manifest, its paths as the gateway takes them. Raises LoadError."""
    try:
        found: Any = json.loads(manifest.read_bytes())
    except OSError as error:
        raise LoadError(f"{manifest}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{manifest}: not JSON, so which files to run is not known: {error}") from None
    if not isinstance(found, dict):
        raise LoadError(f"{manifest}: not a JSON object")
    names = found.get("file_list") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise LoadError(f"{manifest}: file_list is not a list of file names")
    return [os.path.normpath(name).replace(os.sep, "/").lstrip("/") for name in names]


def is_left_out(path: Path) -> bool:
    """Whether a module or package is none of handlers, by its name: a test, or a script of a tool."""
    if path.suffix != ".py":
        return path.name in _NO_HANDLER_FOLDERS
    return any(fnmatch(path.name, pattern) for pattern in _NO_HANDLERS)


def is_of_tests(path: PurePosixPath | Path) -> bool:
    """As `is_left_out`, for a path within a folder: also what lies in a folder of tests."""
    return is_left_out(Path(path)) or any(part in _NO_HANDLER_FOLDERS for part in path.parts[:-1])


def declares_hooks(path: Path, decorators: Iterable[str]) -> bool:
    """Whether the source of a module, which is not run, has a function under one of these decorators."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return False
    known = frozenset(decorators)
    return any(
        _name_of(decorator) in known
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for decorator in node.decorator_list
    )


def _name_of(decorator: ast.expr) -> str:
    if isinstance(decorator, ast.Call):
        decorator = decorator.func
    if isinstance(decorator, ast.Attribute):
        return decorator.attr
    return decorator.id if isinstance(decorator, ast.Name) else ""
