"""Making a bundle out of a folder of handlers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from coprocess.api.moments import HookType
from coprocess.desk.tyk.bundle import (
    Bundle,
    BundleError,
    checksum,
    manifest_bytes,
    read_bundle,
    signed,
    with_manifest,
    write_atomically,
    zip_bytes,
)
from coprocess.desk.tyk.definition import AUTH, LISTS
from coprocess.errors import LoadError
from coprocess.gateways.tyk.home import HOME
from coprocess.loading import loader
from coprocess.loading.hooks import Hook
from coprocess.loading.manifest import MANIFEST


def build(
    folder: Path, output: Path, *, driver: str = "grpc", key_file: Path | None = None
) -> dict[str, Any]:
    """Write the bundle of `folder` to `output`, and give its manifest.

    For `grpc` it is a manifest and nothing else; for `python` it has the folder's files: those that a
    manifest there lists, in its order, else all. Hooks are those of a manifest that is there, else what
    the folder's handlers declare. Raises BundleError, LoadError, ConfigError.
    """
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such folder")
    source = with_manifest(read_bundle(folder))
    manifest = source.manifest if MANIFEST in source.files else {}
    if not _names_hooks(manifest.get("custom_middleware")):
        manifest = {**manifest, "custom_middleware": hooks_of_folder(folder)}
    names = _listed(source, manifest, output) if driver == "python" else []
    content = source.signed_bytes(names)
    manifest = {
        **manifest,
        "file_list": names,
        "custom_middleware": {**manifest["custom_middleware"], "driver": driver},
        "checksum": checksum(content),
        "signature": "",
    }
    if key_file is not None:
        manifest = signed(manifest, content, key_file)
    files = {name: source.files[name] for name in names}
    write_atomically(output, zip_bytes({MANIFEST: manifest_bytes(manifest), **files}))
    return manifest


def _names_hooks(middleware: Any) -> bool:
    return isinstance(middleware, dict) and any(middleware.get(name) for name in (*LISTS.values(), AUTH))


def _listed(source: Bundle, manifest: dict[str, Any], output: Path) -> list[str]:
    listed: list[str] = manifest.get("file_list") or []
    if listed:
        return listed
    own = output.resolve()
    return [name for name in source.files if name != MANIFEST and (source.path / name).resolve() != own]


def hooks_of_folder(folder: Path) -> dict[str, Any]:
    """The `custom_middleware` that calls every handler in `folder`, in the order of the source.

    Raises LoadError where one cannot be loaded, BundleError where the handlers leave open what to call.
    """
    loaded = loader.load([folder], HOME)
    try:
        if loaded.problems:
            raise LoadError("\n".join(map(str, loaded.problems)))
        middleware = custom_middleware(loaded.table)
    finally:
        loaded.forget()
    if not middleware:
        raise BundleError(f"{folder}: no handler found. Expected: decorated functions, or a {MANIFEST}")
    return middleware


def custom_middleware(hooks: Iterable[Hook]) -> dict[str, Any]:
    """The manifest's `custom_middleware` for these handlers, without the driver.

    Raises BundleError where they do not say when they run, or several are to authenticate.
    """
    middleware: dict[str, Any] = {}
    for hook in sorted(hooks, key=lambda hook: (str(hook.source.path), hook.source.line)):
        if hook.misfit:
            continue
        if hook.any_type:
            raise BundleError(
                f"{hook.source}: @Hook on {hook.name} does not say when it runs. "
                f"Expected: @Pre, @Post, …, or a {MANIFEST} that names it"
            )
        if hook.type is HookType.CustomKeyCheck:
            if AUTH in middleware:
                raise BundleError(
                    f"{hook.source}: a second CustomKeyCheck handler, {hook.name}: an API has one. "
                    f"Expected: a {MANIFEST} that names the one to use"
                )
            middleware[AUTH] = {"name": hook.name}
        elif hook.type in LISTS:
            middleware.setdefault(LISTS[hook.type], []).append({"name": hook.name})
    return middleware
