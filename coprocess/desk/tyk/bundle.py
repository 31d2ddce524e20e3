"""Bundles: the zip of files and manifest that the gateway's loader takes, and what holds it together.

The checksum is the MD5 of the listed files' bytes, one after the other, and a signature is made over the
same bytes. A bundle for a gRPC server lists none, so its checksum and its signature are over nothing:
they do not cover the hooks that the manifest names. That is the gateway's design, and all it checks.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import io
import json
import lzma
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from coprocess.desk.json_files import parse_json
from coprocess.errors import ConfigError, CoprocessError
from coprocess.loading.manifest import MANIFEST, looks_like_manifest

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

#: More than this, unpacked, is taken for an attempt to fill the disk.
MAX_UNPACKED_BYTES = 512 * 2**20

_BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
    OverflowError,
    struct.error,
)
_DRIVE = re.compile("[A-Za-z]:")
_LEFT_OUT = ("__pycache__", ".git", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".venv")


class BundleError(CoprocessError):
    """A bundle is broken, or would be. The text names the bundle and what is wrong."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """The files of a bundle, by name as in the zip, in memory."""

    path: Path
    files: Mapping[str, bytes]

    @property
    def manifest_text(self) -> str:
        """Raises BundleError where there is no manifest, or it is no text."""
        if MANIFEST not in self.files:
            raise BundleError(f"{self.path}: has no {MANIFEST}")
        try:
            return self.files[MANIFEST].decode()
        except UnicodeDecodeError:
            raise BundleError(f"{self.path}: {MANIFEST} is not UTF-8") from None

    @property
    def manifest(self) -> dict[str, Any]:
        """Raises BundleError where there is none, or it is no JSON object with a list of files."""
        try:
            manifest = parse_json(self.manifest_text)
        except ValueError as error:
            raise BundleError(f"{self.path}: {MANIFEST} is not JSON: {error}") from None
        if not isinstance(manifest, dict):
            raise BundleError(f"{self.path}: {MANIFEST} is not a JSON object")
        names = manifest.get("file_list") or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise BundleError(f"{self.path}: {MANIFEST}: file_list is not a list of file names")
        return manifest

    def signed_bytes(self, names: Iterable[str]) -> bytes:
        """What checksum and signature are over. Raises BundleError where a file is missing."""
        parts = []
        for name in names:
            # As the gateway's filepath.Join does.
            found = self.files.get(os.path.normpath(name).replace(os.sep, "/").lstrip("/"))
            if found is None:
                raise BundleError(f"{self.path}: {MANIFEST} lists {name}, which is not in the bundle")
            parts.append(found)
        return b"".join(parts)


def checksum(content: bytes) -> str:
    """MD5 as hex: what the gateway compares the manifest's `checksum` with."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def read_bundle(path: Path) -> Bundle:
    """The bundle in a folder or a zip. Raises BundleError; names that lead out of a zip are refused.

    A folder's hidden files, caches and compiled files are left out.
    """
    try:
        if path.is_dir():
            return Bundle(path, _folder_files(path))
        if path.exists() and not path.is_file():  # A pipe or a device may never end.
            raise BundleError(f"{path}: is no regular file. Expected: a folder or a zip file")
        with zipfile.ZipFile(path) as archive:
            return Bundle(path, _unpacked(path, archive))
    except OSError as error:
        place = error.filename or path
        raise BundleError(f"{place}: cannot be read: {error.strerror or error}") from None
    except _BROKEN_ZIP as error:
        raise BundleError(f"{path}: not a zip file: {error}") from None


def with_manifest(bundle: Bundle) -> Bundle:
    """`bundle`, its manifest under the name that gateways read; as it is where it has none.

    The gateway's bundler takes a manifest of any name. Raises BundleError where several could be meant.
    """
    if MANIFEST in bundle.files:
        return bundle
    found = [
        name
        for name, content in bundle.files.items()
        if "/" not in name and name.endswith(".json") and looks_like_manifest(content)
    ]
    if not found:
        return bundle
    if len(found) > 1:
        raise BundleError(
            f"{bundle.path}: several files could be the manifest: {', '.join(found)}. "
            f"Expected: one, or one called {MANIFEST}"
        )
    files = {name: content for name, content in bundle.files.items() if name not in found}
    return Bundle(bundle.path, {**files, MANIFEST: bundle.files[found[0]]})


def _folder_files(folder: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    left = MAX_UNPACKED_BYTES
    for name in _folder_names(folder):
        with (folder / name).open("rb") as stream:
            files[name] = stream.read(left + 1)
        left -= len(files[name])
        if left < 0:
            raise BundleError(f"{folder}: has more than {MAX_UNPACKED_BYTES} bytes")
    return files


def _refuse_to_pass_over(error: OSError) -> None:
    raise error


def _folder_names(folder: Path) -> list[str]:
    # glob passes over what it may not read, and the bundle would lack it.
    for _, folders, _ in os.walk(folder, onerror=_refuse_to_pass_over):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _LEFT_OUT]
    names = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        skipped = any(part.startswith(".") or part in _LEFT_OUT for part in relative.parts)
        if path.is_file() and not skipped and path.suffix not in (".pyc", ".pyo"):
            if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
                raise BundleError(f"{path}: a link that leads out of the bundle")
            names.append(relative.as_posix())
    return names


def _unpacked(path: Path, archive: zipfile.ZipFile) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    left = MAX_UNPACKED_BYTES
    for entry in archive.infolist():
        name = PurePosixPath(entry.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or _DRIVE.match(str(name)):
            raise BundleError(f"{path}: {entry.filename!r} leads out of the folder it is unpacked to")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise BundleError(f"{path}: {entry.filename!r} is a symbolic link")
        if entry.is_dir():
            continue
        # What the entry says of its size may be a lie: read no more than is left.
        with archive.open(entry) as stream:
            content = stream.read(left + 1)
        left -= len(content)
        if left < 0:
            raise BundleError(f"{path}: unpacks to more than {MAX_UNPACKED_BYTES} bytes")
        files[name.as_posix()] = content
    return files


def extract(bundle: Bundle, folder: Path) -> None:
    """Write the bundle's files below `folder`. Raises BundleError where one cannot be written."""
    for name, content in bundle.files.items():
        target = folder / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        except (OSError, ValueError) as error:  # A name that this system has not, or one of file and folder.
            reason = getattr(error, "strerror", None) or error
            raise BundleError(
                f"{bundle.path}: {name!r:.80} cannot be unpacked into {folder}: {reason}"
            ) from None


def zip_bytes(files: Mapping[str, bytes]) -> bytes:
    """A zip of `files`, the same bytes for the same files wherever and whenever it is made."""
    buffer = io.BytesIO()
    folders: set[PurePosixPath] = set()
    # Stored, not deflated: zlib's versions differ in what they make of the same bytes.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files, key=lambda name: (name != MANIFEST, name)):
            for parent in reversed(PurePosixPath(name).parents):
                # The gateway makes a folder only where the zip has an entry for it.
                if parent != PurePosixPath() and parent not in folders:
                    folders.add(parent)
                    archive.writestr(_entry(f"{parent}/", stat.S_IFDIR | 0o755), b"")
            archive.writestr(_entry(name, stat.S_IFREG | 0o644), files[name])
    return buffer.getvalue()


def _entry(name: str, mode: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.create_system = 3  # Unix, whatever this is made on.
    entry.external_attr = mode << 16 | (0x10 if stat.S_ISDIR(mode) else 0)
    return entry


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """The manifest as a file."""
    return f"{json.dumps(manifest, indent=2, ensure_ascii=False)}\n".encode()


def write_atomically(path: Path, content: bytes) -> None:
    """A gateway, or a web server before it, may read the file at this moment."""
    partial = path.with_name(f".{path.name}.part")
    try:
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise BundleError(f"{path}: cannot be written: {error.strerror or error}") from None


def sign(path: Path, key_file: Path) -> None:
    """Put a signature by the private key (RSA, PEM) into the bundle's manifest: a zip, or a folder's.

    Raises BundleError where the bundle would not be accepted anyway, ConfigError for the key.
    """
    bundle = read_bundle(path)
    manifest = bundle.manifest
    content = bundle.signed_bytes(manifest.get("file_list") or [])
    if manifest.get("checksum") != checksum(content):
        raise BundleError(
            f"{path}: its checksum is not that of its files: build it again, or find out who changed it"
        )
    files = {**bundle.files, MANIFEST: manifest_bytes(signed(manifest, content, key_file))}
    if path.is_dir():
        write_atomically(path / MANIFEST, files[MANIFEST])
    else:
        write_atomically(path, zip_bytes(files))


def signed(manifest: Mapping[str, Any], content: bytes, key_file: Path) -> dict[str, Any]:
    """The manifest with the signature over `content` in it."""
    key = _private_key(key_file)
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    signature = key.sign(content, padding.PKCS1v15(), hashes.SHA256())
    return {**manifest, "signature": base64.b64encode(signature).decode()}


def verify(bundle: Bundle, public_key_file: Path | None = None) -> bool:
    """Check as the gateway does; without a key, its signature is not looked at. Gives whether it has one.

    Raises BundleError with what the gateway would refuse it for.
    """
    manifest = bundle.manifest
    content = bundle.signed_bytes(manifest.get("file_list") or [])
    stated = manifest.get("checksum")
    if stated != checksum(content):
        raise BundleError(
            f"{bundle.path}: the manifest's checksum is {stated}, that of its files {checksum(content)}"
        )
    signature = manifest.get("signature") or ""
    if public_key_file is None:
        return bool(signature)
    if not signature:
        raise BundleError(f"{bundle.path}: is not signed")
    key = _public_key(public_key_file)
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    try:
        key.verify(base64.b64decode(signature, validate=True), content, padding.PKCS1v15(), hashes.SHA256())
    except (binascii.Error, ValueError, TypeError):
        raise BundleError(f"{bundle.path}: the signature is not base64") from None
    except InvalidSignature:
        raise BundleError(f"{bundle.path}: the signature is not by the key of {public_key_file}") from None
    return True


def _private_key(path: Path) -> RSAPrivateKey:
    serialization = _serialization()
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    pem = _key_bytes(path)
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise ConfigError(f"{path}: the key is encrypted. Expected: one without a passphrase") from None
    except Exception as error:  # noqa: BLE001 - the library has many; each means the same to the user
        raise ConfigError(f"{path}: not a private key in PEM form: {type(error).__name__}") from None
    if not isinstance(key, RSAPrivateKey):
        raise ConfigError(f"{path}: the gateway checks RSA signatures only; this is another kind of key")
    return key


def _public_key(path: Path) -> RSAPublicKey:
    serialization = _serialization()
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    pem = _key_bytes(path)
    try:
        key = serialization.load_pem_public_key(pem)
    except Exception as error:  # noqa: BLE001 - as above
        raise ConfigError(f"{path}: not a public key in PEM form: {type(error).__name__}") from None
    if not isinstance(key, RSAPublicKey):
        raise ConfigError(f"{path}: the gateway checks RSA signatures only; this is another kind of key")
    return key


def _key_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _serialization() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError:
        raise ConfigError(
            "signatures need the package cryptography: pip install 'coprocess[bundle]'"
        ) from None
    return serialization
