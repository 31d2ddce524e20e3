"""Which files of a folder hold handlers, and what they are called."""

from __future__ import annotations

import hashlib
from pathlib import Path

from coprocess.loading.manifest import is_left_out, manifests
from coprocess.loading.scoped_imports import VENDOR


def module_paths(folder: Path) -> list[Path]:
    """The modules (files) and packages (folders with `__init__.py`) that lie directly in `folder`.

    Tests, and scripts of tools, are none of them. Their names need not be identifiers: a gateway finds
    handlers by the functions' names.
    """
    modules = [path for path in folder.glob("*.py") if path.stem != "__init__" and path.is_file()]
    # A pipe would be read for ever.
    packages = [path.parent for path in folder.glob("*/__init__.py") if path.is_file()]
    packages = [path for path in packages if path.name != VENDOR and not manifests(path)]
    return sorted(path for path in (*modules, *packages) if not is_hidden(path) and not is_left_out(path))


def is_hidden(path: Path) -> bool:
    # Editors' locks and other systems' side files (.#name.py, ._name.py), and mounted volumes' own folders.
    return path.name.startswith(".")


def module_name(path: Path) -> str:
    """The dotted name of the module at a path within its folder."""
    return ".".join((*path.parts[:-1], path.name.removesuffix(".py")))


def bundle_names(folder_name: str) -> frozenset[str]:
    """What a gateway may call the bundle in a folder of that name: md5, as hex, of the bundle's name.

    Gateways unpack bundles into folders that have this name already.
    """
    hashes = (
        hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
        for name in (folder_name, f"{folder_name}.zip")
    )
    return frozenset((folder_name, *hashes))
