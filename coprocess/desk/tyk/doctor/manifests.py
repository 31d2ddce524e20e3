"""Rules on bundles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from coprocess.desk.findings import FileFinding, Severity
from coprocess.desk.tyk.bundle import BundleError, checksum
from coprocess.desk.tyk.doctor.definitions import wrong_driver
from coprocess.desk.tyk.doctor.names import check_hooks, spec_of
from coprocess.desk.tyk.doctor.project import BundleManifest, Project

_REFUSED = "The gateway refuses the bundle: APIs that name it run without its hooks."


def check_bundle(project: Project, bundle: BundleManifest) -> Iterator[FileFinding]:
    """What is wrong with one bundle."""
    manifest = bundle.bundle.manifest
    yield from _check_content(bundle, manifest.get("file_list") or [], manifest.get("checksum"))
    if not manifest.get("signature"):
        yield from _unsigned(project, bundle)
    driver = bundle.document.root["custom_middleware"]["driver"]
    if (wrong := wrong_driver(project, driver.text(), bundle.hooks)) is not None:
        severity, problem = wrong
        yield bundle.finding(
            severity,
            "driver-wrong",
            driver.path,
            problem,
            "This service is never called for APIs that name the bundle.",
            "Make a bundle for this service: `coprocess bundle build DIR`.",
        )
    # Where a definition names the bundle, its hooks are looked up as that API's.
    named_by = [api for api in project.apis if api.bundle in bundle.names]
    specs = [spec_of(api) for api in named_by] or [{"bundle_hash": _own_hash(bundle)}]
    seen: set[FileFinding] = set()
    for spec in specs:
        for finding in check_hooks(project, bundle.hooks, bundle.document, spec):
            if finding not in seen:
                seen.add(finding)
                yield finding


def _own_hash(bundle: BundleManifest) -> str:
    return checksum(bundle.names[0].encode())


def _check_content(bundle: BundleManifest, names: list[str], stated: object) -> Iterator[FileFinding]:
    try:
        content = bundle.bundle.signed_bytes(names)
    except BundleError as error:
        yield bundle.finding(
            Severity.ERROR,
            "manifest-file-missing",
            "file_list",
            f"{str(error).removeprefix(f'{bundle.bundle.path}: ')}.",
            _REFUSED,
            "Build it again with `coprocess bundle build DIR --driver python`.",
        )
        return
    if stated != checksum(content):
        yield bundle.finding(
            Severity.ERROR,
            "manifest-checksum",
            "checksum",
            f'The checksum is "{stated or ""}"; that of the listed files is "{checksum(content)}".',
            _REFUSED,
            "If the files were meant to change, build it again: `coprocess bundle build DIR`.",
        )


def _unsigned(project: Project, bundle: BundleManifest) -> Iterator[FileFinding]:
    key = project.conf.root["public_key_path"].text() if project.conf else ""
    yield bundle.finding(
        Severity.ERROR if key else Severity.WARNING,
        "manifest-unsigned",
        "signature",
        f"The bundle is not signed, and the gateway has a key to check it with ({Path(key).name})."
        if key
        else "The bundle is not signed.",
        _REFUSED
        if key
        else "A gateway whose tyk.conf has a public_key_path refuses it; another takes it as it comes.",
        "Sign it: `coprocess bundle sign BUNDLE.zip --key private.pem`.",
    )
