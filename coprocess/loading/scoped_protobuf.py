"""Generated protobuf modules of handlers: each load registers its messages in a pool of its own.

In the pool of the process, a file that has changed, or that two folders have in different forms, is an error,
for as long as the process runs. Messages of two pools do not fit together. So a scope with generated modules
has copies of those installed ones that generated code builds on, as timestamp_pb2, and of the helpers that
look messages up in the default pool. Everything else of protobuf is the process's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

_GENERATED = "_pb2"
_POOL = "google.protobuf.descriptor_pool"
_BUILDER = "google.protobuf.internal.builder"
#: What asks for the default pool, beside generated modules.
_COPIED = frozenset(
    (
        _BUILDER,
        "google.protobuf.json_format",
        "google.protobuf.proto_json",
        "google.protobuf.proto_text",
        "google.protobuf.symbol_database",
        "google.protobuf.text_format",
    )
)
_PACKAGES = frozenset(("google", "google.protobuf", "google.protobuf.internal"))
TOP = "google"


def has_generated_modules(path: Iterable[str], known: Mapping[str, ModuleType]) -> bool:
    """Whether there are any in these folders, but for those whose names are `known`."""
    return any(
        name.endswith(f"{_GENERATED}.py") and name.removesuffix(".py") not in known
        for folder in path
        for _, _, names in os.walk(folder)
        for name in names
    )


def is_part(shown: str) -> bool:
    """Whether a module of that name is of protobuf itself."""
    return f"{shown}.".startswith("google.protobuf.")


class ScopedProtobuf:
    """The protobuf of one scope."""

    def __init__(self, known: Mapping[str, ModuleType], source: Callable[[str, str], Loader]) -> None:
        """`known` are modules, by name, whose files generated code may build on.

        `source` makes what loads the module of that name from that file.
        """
        self._pool = _Pool(known)
        self._source = source

    def find(self, shown: str, fullname: str) -> ModuleSpec | None:
        """The scope's own form of an installed module; None where it is the process's that is meant.

        `shown` is its name as the code knows it, `fullname` that within the scope.
        """
        if shown == _POOL:
            return ModuleSpec(fullname, _PoolLoader(self._pool))
        if shown not in _PACKAGES and shown not in _COPIED and not shown.endswith(_GENERATED):
            return self._package(shown, fullname)
        if shown in _PACKAGES:
            return _namespace(fullname)
        installed = _installed(shown)
        if installed is None or installed.origin is None:
            return None
        loader = self._source(fullname, installed.origin)
        if shown == _BUILDER:
            loader = _BuilderLoader(loader)
        return spec_from_file_location(fullname, installed.origin, loader=loader)

    @staticmethod
    def _package(shown: str, fullname: str) -> ModuleSpec | None:
        # As google.api: of generated modules, or a namespace with such within.
        installed = _installed(shown)
        if installed is None or installed.submodule_search_locations is None:
            return None
        folders = [Path(folder) for folder in installed.submodule_search_locations]
        has_generated = any(True for folder in folders for _ in folder.glob(f"*{_GENERATED}.py"))
        return _namespace(fullname) if installed.origin is None or has_generated else None


def fill(module: ModuleType, shown: str) -> None:
    """Give the scope's form of an installed package what that has beside modules, as its version."""
    if shown not in _PACKAGES:
        return
    for name, value in vars(import_module(shown)).items():
        if not isinstance(value, ModuleType):
            vars(module).setdefault(name, value)


def _installed(shown: str) -> ModuleSpec | None:
    try:
        return find_spec(shown)
    except (ImportError, ValueError):
        return None


def _namespace(fullname: str) -> ModuleSpec:
    spec = ModuleSpec(fullname, None, is_package=True)
    spec.submodule_search_locations = []
    return spec


class _Pool:
    """A descriptor pool that has the files which a new one builds on."""

    def __init__(self, known: Mapping[str, ModuleType]) -> None:
        from google.protobuf import descriptor_pool

        self._pool = descriptor_pool.DescriptorPool()
        self._process = descriptor_pool.Default()
        self._known = known

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def AddSerializedFile(self, content: bytes) -> Any:
        from google.protobuf.descriptor_pb2 import FileDescriptorProto

        for name in FileDescriptorProto.FromString(content).dependency:
            self._need(name)
        return self._pool.AddSerializedFile(content)

    def Add(self, file: Any) -> Any:
        return self.AddSerializedFile(file.SerializeToString())

    def _need(self, name: str) -> None:
        try:
            self._pool.FindFileByName(name)
        except KeyError:
            found = self._elsewhere(name)
            if found is not None:
                self.AddSerializedFile(found.serialized_pb)

    def _elsewhere(self, name: str) -> Any:
        for module in self._known.values():
            descriptor = vars(module).get("DESCRIPTOR")
            if getattr(descriptor, "name", None) == name:
                return descriptor
        try:
            return self._process.FindFileByName(name)
        except KeyError:  # The pool says which file it misses.
            return None


class _PoolLoader(Loader):
    def __init__(self, pool: _Pool) -> None:
        self._pool = pool

    def exec_module(self, module: ModuleType) -> None:
        for name, value in vars(import_module(_POOL)).items():
            vars(module).setdefault(name, value)
        vars(module)["Default"] = lambda: self._pool


class _BuilderLoader(Loader):
    """Makes message classes that can be found by their module, as pickle does."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        build = vars(module)["BuildTopDescriptorsAndMessages"]

        def build_in_scope(file: Any, module_name: str, names: dict[str, Any]) -> None:
            build(file, names.get("__name__", module_name), names)

        vars(module)["BuildTopDescriptorsAndMessages"] = build_in_scope
