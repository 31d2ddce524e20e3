"""How a client of a running service shows and checks certificates."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from coprocess.errors import ConfigError

if TYPE_CHECKING:
    import grpc


@dataclass(frozen=True, slots=True)
class ClientTls:
    """PEM files. `ca` None: the authorities that gRPC brings; `cert` and `key` are for mutual TLS."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    #: The name in the server's certificate, where that is not the address' host.
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises ConfigError where the files cannot be used."""
        import grpc

        if (self.cert is None) != (self.key is None):
            raise ConfigError("only one is given of --tls-cert and --tls-key. Expected: both, or none")
        contents = [None if path is None else _read(path) for path in (self.ca, self.key, self.cert)]
        try:
            # gRPC itself says nothing of what is wrong with them.
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None and self.key is not None:
                context.load_cert_chain(self.cert, self.key, password=_refuse)
        except (ssl.SSLError, OSError, ValueError) as error:
            files = ", ".join(str(path) for path in (self.ca, self.cert, self.key) if path is not None)
            reason = getattr(error, "reason", None) or error
            raise ConfigError(f"TLS: {files} cannot be used: {reason}") from None
        return grpc.ssl_channel_credentials(*contents)

    def options(self) -> list[tuple[str, str]]:
        return [] if self.server_name is None else [("grpc.ssl_target_name_override", self.server_name)]


_PROBE_S = 2.0


def why_not_connected(target: str, tls: ClientTls | None, said: str) -> str:
    """What is wrong with TLS, of a server that could not be reached; empty where it is none of that.

    `said` is gRPC's own word for it, which names no option.
    """
    if tls is None:
        return "the server speaks TLS. Expected: --tls, or --tls-ca FILE" if _speaks_tls(target) else ""
    if "WRONG_VERSION_NUMBER" in said:
        return "the server speaks plaintext. Expected: none of the options --tls…"
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return "the server's certificate is not trusted. Expected: --tls-ca FILE, with its authority"
    if tls.cert is None and "Unwrap failed" in said:
        return "the server asks who calls. Expected: --tls-cert and --tls-key"
    return ""


def _speaks_tls(target: str) -> bool:
    host, _, port = target.rpartition(":")
    if target.startswith("unix:"):
        return False  # No service has TLS there.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), _PROBE_S) as connection,
            context.wrap_socket(connection),
        ):
            return True
    except ssl.SSLError as error:
        # The server refuses this client, and does so in TLS.
        return "ALERT" in (error.reason or "")
    except OSError:
        return False


def _refuse() -> str:
    raise ValueError("the key is encrypted. Expected: one without a passphrase")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
