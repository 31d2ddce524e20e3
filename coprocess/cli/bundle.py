"""`coprocess bundle build`, `sign` and `verify`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from coprocess.text import counted

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Bundles: the zip and manifest that the gateway fetches hooks by.",
)


class Driver(StrEnum):
    """Whom a bundle's hooks are for."""

    grpc = "grpc"
    python = "python"


BundlePath = Annotated[Path, typer.Argument(metavar="ZIP|DIR", help="The bundle.")]


@app.command()
def build(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder with handlers or a manifest.json.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: DIR.zip beside it.")
    ] = None,
    driver: Annotated[
        Driver,
        typer.Option("--driver", help="grpc: a manifest only. python: with the files, for the embedded one."),
    ] = Driver.grpc,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="PEM", help="Sign it with this RSA private key.")
    ] = None,
) -> None:
    """Make a bundle of a folder. Its hooks are those of a manifest.json there, else all handlers."""
    from coprocess.desk.tyk.bundle_build import build as build_bundle

    folder = folder.resolve() if folder == Path() else folder
    target = output or folder.parent / f"{folder.name}.zip"
    manifest = build_bundle(folder, target, driver=driver.value, key_file=key)
    hooks = [
        str(hook["name"])
        for value in manifest["custom_middleware"].values()
        for hook in (value if isinstance(value, list) else [value])
        if isinstance(hook, dict) and "name" in hook
    ]
    signed = "signed" if manifest["signature"] else "not signed"
    files = counted(len(manifest["file_list"]), "file")
    typer.echo(f"{target}: driver {driver.value}, {files}, {signed}")
    typer.echo(f"hooks: {', '.join(hooks)}")


@app.command()
def sign(
    bundle: BundlePath,
    key: Annotated[Path, typer.Option("--key", metavar="PEM", help="RSA private key, without a passphrase.")],
) -> None:
    """Put a signature into a bundle's manifest."""
    from coprocess.desk.tyk.bundle import sign as sign_bundle

    sign_bundle(bundle, key)
    typer.echo(f"{bundle}: signed")


@app.command()
def verify(
    bundle: BundlePath,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="PEM", help="RSA public key. Default: the signature is not checked."),
    ] = None,
) -> None:
    """Check a bundle as the gateway does. Exit status 1 where the gateway would refuse it."""
    from coprocess.desk.tyk.bundle import read_bundle
    from coprocess.desk.tyk.bundle import verify as verify_bundle

    has_signature = verify_bundle(read_bundle(bundle), key)
    if key is not None:
        state = "checksum and signature are right"
    else:
        state = "checksum is right; " + ("signature not checked" if has_signature else "not signed")
    typer.echo(f"{bundle}: {state}")
