"""The options that several commands share."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coprocess.errors import ConfigError
from coprocess.process.config import Settings

if TYPE_CHECKING:
    from coprocess.desk.tyk.trial.tls import ClientTls


def describe(name: str) -> str:
    """The manual's text for a setting, with its default."""
    field = Settings.model_fields[name]
    default = field.default
    if isinstance(default, list):
        default = " ".join(map(str, default))
    shown = "" if default in (None, "", False) or "Default:" in (field.description or "") else f" [{default}]"
    return f"{field.description}{shown}"


Handlers = Annotated[
    list[Path] | None,
    typer.Option("--handlers", metavar="DIR", help=f"{describe('handlers')} Repeatable."),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings file. Default: coprocess.toml, if there."),
]
Address = Annotated[
    str | None, typer.Option("--address", help="A running server. Default: the handlers run here.")
]
Tls = Annotated[
    bool, typer.Option("--tls", help="Speak TLS to the server at --address, as any of the next four does.")
]
TlsCa = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca", metavar="FILE", help="Authorities of its certificate (PEM). Default: gRPC's own."
    ),
]
TlsCert = Annotated[
    Path | None, typer.Option("--tls-cert", metavar="FILE", help="The certificate to show it (PEM).")
]
TlsKey = Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Its private key (PEM).")]
TlsName = Annotated[
    str | None,
    typer.Option(
        "--tls-name", metavar="NAME", help="The name in its certificate. Default: the address' host."
    ),
]


def client_tls(
    address: str | None, tls: bool, ca: Path | None, cert: Path | None, key: Path | None, name: str | None
) -> ClientTls | None:
    """None for plaintext. Raises ConfigError where TLS is asked for, and no server is named."""
    if not (tls or ca or cert or key or name):
        return None
    if address is None:
        raise ConfigError("TLS is for a server, and none is named. Expected: --address")
    from coprocess.desk.tyk.trial.tls import ClientTls

    # gRPC writes of failed handshakes past everybody; the command says what came of them.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    return ClientTls(ca, cert, key, name)


def worker_socket(worker_fd: int) -> socket.socket:
    """What a front process gives its worker. Raises ConfigError for another descriptor."""
    try:
        found = socket.socket(fileno=worker_fd)
        found.getpeername()
    except OSError as error:
        raise ConfigError(
            f"--worker-fd {worker_fd}: {error.strerror}. It is what a front process tells its workers. "
            "Expected: --workers N"
        ) from None
    return found
