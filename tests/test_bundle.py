"""Bundles, against the gateway's loader, whose checks are written out here once more."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from coprocess.desk.tyk import bundle as bundles
from coprocess.desk.tyk.bundle import BundleError, extract, read_bundle, sign, verify, zip_bytes
from coprocess.desk.tyk.bundle_build import build
from coprocess.errors import ConfigError, CoprocessError

HANDLERS = """
from coprocess import CustomKeyCheck, Event, Post, Pre, Response

@Response
def last(response): pass

@Pre
def first(request): pass

@Pre(name="second")
def renamed(request): pass

@CustomKeyCheck
def auth(session): session.allow("t")

@Event
def on_event(event): pass
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "plug"
    (path / "vendor" / "lib").mkdir(parents=True)
    (path / "__pycache__").mkdir()
    (path / "handlers.py").write_text(HANDLERS)
    (path / "vendor" / "lib" / "__init__.py").write_text("x = 1\n")
    (path / "__pycache__" / "old.pyc").write_bytes(b"\0")
    (path / ".hidden").write_text("secret")
    return path


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return _write_keys(tmp_path_factory.mktemp("keys"))


def _write_keys(folder: Path) -> tuple[Path, Path]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private, public = folder / "private.pem", folder / "public.pem"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


def gateway_loads(archive: Path, destination: Path, public_key: Path | None = None) -> dict[str, Any]:
    """What the gateway's loader does: make each entry, in order; check the sum; check the signature."""
    destination.mkdir()
    with zipfile.ZipFile(archive) as content:
        for entry in content.infolist():
            target = destination / entry.filename
            if stat.S_ISDIR(entry.external_attr >> 16):
                os.mkdir(target)  # Fails where a parent has no entry, or is there already.
            else:
                target.write_bytes(content.read(entry))
    manifest: dict[str, Any] = json.loads((destination / "manifest.json").read_text())
    data = b"".join((destination / name).read_bytes() for name in manifest["file_list"])
    assert hashlib.md5(data).hexdigest() == manifest["checksum"]  # noqa: S324 - the format's own
    if public_key is not None:
        key = serialization.load_pem_public_key(public_key.read_bytes())
        assert isinstance(key, rsa.RSAPublicKey)
        key.verify(base64.b64decode(manifest["signature"]), data, padding.PKCS1v15(), hashes.SHA256())
    return manifest


def test_a_grpc_bundle_is_a_manifest_of_the_folders_handlers(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.zip"
    build(folder, output)

    assert zipfile.ZipFile(output).namelist() == ["manifest.json"]
    assert gateway_loads(output, tmp_path / "gateway") == {
        "file_list": [],
        "custom_middleware": {
            "response": [{"name": "last"}],
            "pre": [{"name": "first"}, {"name": "second"}],
            "auth_check": {"name": "auth"},
            "driver": "grpc",
        },
        "checksum": "d41d8cd98f00b204e9800998ecf8427e",
        "signature": "",
    }


def test_a_python_bundle_has_the_files(folder: Path, tmp_path: Path) -> None:
    output = folder / "out.zip"
    build(folder, output, driver="python")
    # The output lies in the folder: built again, it must not swallow itself.
    manifest = build(folder, output, driver="python")

    assert manifest["file_list"] == ["handlers.py", "vendor/lib/__init__.py"]
    assert gateway_loads(output, tmp_path / "gateway") == manifest


def test_a_manifest_that_is_there_keeps_hooks_order_and_what_else_it_has(
    folder: Path, tmp_path: Path
) -> None:
    hooks = {
        "pre": [{"name": "Given", "require_session": True}],
        "driver": "python",
        "id_extractor": {"x": 1},
    }
    names = ["vendor/lib/__init__.py", "handlers.py"]
    given = {
        "file_list": names,
        "custom_middleware": hooks,
        "checksum": "old",
        "signature": "old",
        "extra": 1,
    }
    (folder / "manifest.json").write_text(json.dumps(given))
    output = tmp_path / "out.zip"

    python = build(folder, output, driver="python")
    loaded = gateway_loads(output, tmp_path / "gateway")
    assert loaded == python
    assert loaded["file_list"] == names
    assert loaded["custom_middleware"] == hooks
    assert (loaded["extra"], loaded["signature"]) == (1, "")

    assert build(folder, output)["custom_middleware"] == {**hooks, "driver": "grpc"}


def test_the_same_folder_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    build(folder, tmp_path / "a.zip", driver="python")
    os.utime(folder / "handlers.py", (1, 1))
    (folder / "handlers.py").chmod(0o600)
    build(folder, tmp_path / "b.zip", driver="python")

    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("from tyk.decorators import *\n@Hook\ndef h(a, b, c): pass\n", "does not say when it runs"),
        (
            "from coprocess import *\n@CustomKeyCheck\ndef a(): pass\n@CustomKeyCheck\ndef b(): pass\n",
            "a second CustomKeyCheck",
        ),
        ("import nothing_of_that_name\n", "nothing_of_that_name"),
        ("x = 1\n", "no handler found"),
    ],
)
def test_a_folder_that_makes_no_bundle(source: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "code.py").write_text(source)

    with pytest.raises(CoprocessError, match=says):
        build(tmp_path / "in", tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()


def test_a_listed_file_that_is_missing(folder: Path, tmp_path: Path) -> None:
    (folder / "manifest.json").write_text(
        '{"file_list": ["gone.py"], "custom_middleware": {"pre": [{"name": "x"}]}}'
    )

    with pytest.raises(BundleError, match=r"gone\.py"):
        build(folder, tmp_path / "out.zip", driver="python")


@pytest.mark.parametrize("driver", ["grpc", "python"])
def test_a_signature_that_the_gateway_takes(
    driver: str, folder: Path, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    private, public = keys
    output = tmp_path / "out.zip"
    build(folder, output, driver=driver)
    with pytest.raises(BundleError, match="not signed"):
        verify(read_bundle(output), public)
    assert verify(read_bundle(output)) is False

    sign(output, private)

    assert verify(read_bundle(output), public) is True
    gateway_loads(output, tmp_path / "gateway", public)


def test_build_can_sign_at_once(folder: Path, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    build(folder, tmp_path / "out.zip", key_file=keys[0])

    assert verify(read_bundle(tmp_path / "out.zip"), keys[1])


def test_openssl_takes_the_signature(folder: Path, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    manifest = build(folder, tmp_path / "out.zip", driver="python", key_file=keys[0])
    (tmp_path / "signature").write_bytes(base64.b64decode(manifest["signature"]))
    data = b"".join((folder / name).read_bytes() for name in manifest["file_list"])
    command = ["openssl", "dgst", "-sha256", "-verify", str(keys[1]), "-signature", "signature"]
    try:
        done = subprocess.run(command, input=data, cwd=tmp_path, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")

    assert done.stdout == b"Verified OK\n"


def test_another_key_and_another_file_are_noticed(
    folder: Path, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    output = tmp_path / "out.zip"
    build(folder, output, driver="python", key_file=keys[0])
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(BundleError, match="not by the key"):
        verify(read_bundle(output), _write_keys(other)[1])

    files = dict(read_bundle(output).files)
    files["handlers.py"] += b"#"
    output.write_bytes(zip_bytes(files))
    with pytest.raises(BundleError, match="checksum"):
        verify(read_bundle(output), keys[1])
    with pytest.raises(BundleError, match="checksum"):
        sign(output, keys[0])

    manifest = json.loads(files["manifest.json"])
    manifest["checksum"] = hashlib.md5(b"".join(files[n] for n in manifest["file_list"])).hexdigest()  # noqa: S324 - the format's own
    files["manifest.json"] = json.dumps(manifest).encode()
    output.write_bytes(zip_bytes(files))
    with pytest.raises(BundleError, match="not by the key"):
        verify(read_bundle(output), keys[1])


def test_a_folders_manifest_can_be_signed(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    content = {"file_list": [], "checksum": "d41d8cd98f00b204e9800998ecf8427e", "custom_middleware": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(content))

    sign(tmp_path, keys[0])

    assert verify(read_bundle(tmp_path), keys[1])


@pytest.mark.parametrize("name", ["../evil.py", "/etc/evil", "a/../../evil.py", "C:\\evil.py", "..\\evil.py"])
def test_a_zip_that_leads_out_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo("x")
        entry.filename = name
        archive.writestr(entry, "x")

    with pytest.raises(BundleError, match="leads out"):
        read_bundle(path)


def test_links_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "link.zip"
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo("link.py")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(BundleError, match="symbolic link"):
        read_bundle(path)

    folder = tmp_path / "linked"
    folder.mkdir()
    (tmp_path / "outside.py").write_text("secret")
    (folder / "in.py").symlink_to(tmp_path / "outside.py")
    with pytest.raises(BundleError, match="leads out"):
        read_bundle(folder)


def test_a_zip_that_would_fill_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "MAX_UNPACKED_BYTES", 10_000)
    path = tmp_path / "big.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.py", b"0" * 6_000)
        archive.writestr("b.py", b"0" * 6_000)

    with pytest.raises(BundleError, match="10000 bytes"):
        read_bundle(path)


def test_what_is_extracted_is_what_was_packed(folder: Path, tmp_path: Path) -> None:
    build(folder, tmp_path / "out.zip", driver="python")
    extract(read_bundle(tmp_path / "out.zip"), tmp_path / "again")

    assert (tmp_path / "again" / "vendor" / "lib" / "__init__.py").read_text() == "x = 1\n"
    assert (tmp_path / "again" / "handlers.py").read_text() == HANDLERS


@pytest.mark.parametrize(
    ("content", "says"), [(b"no zip", "not a zip"), (b"PK\x05\x06" + b"\0" * 18, "has no manifest")]
)
def test_files_that_are_no_bundles(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(content)

    with pytest.raises(BundleError, match=says):
        verify(read_bundle(path))


def test_keys_that_do_not_do(tmp_path: Path, folder: Path) -> None:
    output = tmp_path / "out.zip"
    build(folder, output)
    before = output.read_bytes()
    wrong = tmp_path / "key.pem"
    with pytest.raises(ConfigError, match="cannot be read"):
        sign(output, wrong)
    wrong.write_text("no key")
    with pytest.raises(ConfigError, match="not a private key"):
        sign(output, wrong)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    plain = serialization.NoEncryption()
    wrong.write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(*form, plain))
    with pytest.raises(ConfigError, match="RSA signatures only"):
        sign(output, wrong)
    locked = serialization.BestAvailableEncryption(b"secret")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    wrong.write_bytes(key.private_bytes(*form, locked))
    with pytest.raises(ConfigError, match="encrypted"):
        sign(output, wrong)
    assert output.read_bytes() == before


def test_without_cryptography_the_error_says_what_to_install(folder: Path, tmp_path: Path) -> None:
    build(folder, tmp_path / "out.zip")
    (tmp_path / "key.pem").write_text("x")
    # In a process of its own: an import that fails is remembered by half of the library.
    program = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from coprocess.cli import main\n"
        "sys.argv = ['coprocess', 'bundle', 'sign', 'out.zip', '--key', 'key.pem']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert done.stderr == (
        "coprocess: signatures need the package cryptography: pip install 'coprocess[bundle]'\n"
    )
