"""TLS for the engines, from files that may be replaced while the service runs."""

from __future__ import annotations

import ssl
import threading
from pathlib import Path
from typing import TYPE_CHECKING, cast

import structlog

from coprocess.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

log = structlog.get_logger("coprocess")


class TlsFiles:
    """A certificate chain and its key (PEM), and the authorities that clients must show a certificate of.

    `client_ca` None: clients need none. Raises ConfigError where the files cannot be used.
    """

    def __init__(self, cert: Path, key: Path, client_ca: Path | None = None) -> None:
        self._cert, self._key, self._client_ca = cert, key, client_ca
        self._lock = threading.Lock()
        self._stamps = self._look()
        self._contents, self._context = self._read()
        #: How often the files were found replaced: each address asks for itself whether it has the newest.
        self._version = 0

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials that look at the files before each handshake. Connections that are open stay."""
        import grpc

        used = self._version

        def newer_configuration() -> grpc.ServerCertificateConfiguration | None:
            """None, which keeps what is there, where nothing has changed, or cannot be used."""
            nonlocal used
            version = self._newest()
            if version == used:
                return None
            configuration, used = self._configuration(), version
            return configuration

        return grpc.dynamic_ssl_server_credentials(
            self._configuration(),
            # The stubs leave out None.
            cast("Callable[[], grpc.ServerCertificateConfiguration]", newer_configuration),
            require_client_authentication=self._client_ca is not None,
        )

    def http2_context(self) -> ssl.SSLContext:
        """The same for the standard library, to be asked for each connection: for HTTP/2, by ALPN.

        What new files say is in a new one: a session of the one before, which could name a client that they
        do not let in any more, is not known to it.
        """
        self._newest()
        return self._context

    def _make_context(self) -> ssl.SSLContext:
        """RFC 9113 §9.2: what of TLS 1.2 may not be used with HTTP/2 is left out."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["h2"])
        # Each that is used brings the next: a client's certificate would be looked at once, and never again.
        context.num_tickets = 0
        return context

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        import grpc

        cert, key, client_ca = self._contents
        return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=client_ca)

    def _newest(self) -> int:
        """The version of the files, once they were looked at."""
        with self._lock:
            stamps = self._look()
            if stamps == self._stamps:
                return self._version
            try:
                self._contents, self._context = self._read()
            except ConfigError as error:
                # Perhaps only one of the files is written yet: the next handshake looks again.
                log.error("the new TLS files are not used", reason=str(error))
                return self._version
            self._stamps = stamps
            self._version += 1
            version = self._version
        log.info("TLS files reloaded", tls_cert=str(self._cert))
        return version

    @property
    def _paths(self) -> list[Path]:
        return [path for path in (self._cert, self._key, self._client_ca) if path is not None]

    def _look(self) -> list[tuple[int, int, int] | None]:
        """What changes when a file does, also where a link is turned to another, as Kubernetes does."""
        found: list[tuple[int, int, int] | None] = []
        for path in self._paths:
            try:
                status = path.stat()
            except OSError:
                found.append(None)
            else:
                found.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return found

    def _read(self) -> tuple[tuple[bytes, bytes, bytes | None], ssl.SSLContext]:
        names = {self._cert: "tls_cert", self._key: "tls_key", self._client_ca: "tls_client_ca"}
        contents: dict[Path | None, bytes] = {}
        for path in self._paths:
            try:
                contents[path] = path.read_bytes()
            except OSError as error:
                raise ConfigError(f"{names[path]}: {path}: cannot be read: {error.strerror}") from None
        context = self._make_context()
        try:
            # The empty password keeps OpenSSL from asking for one at the terminal.
            context.load_cert_chain(self._cert, self._key, password="")
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(
                f"tls_cert {self._cert} with tls_key {self._key}: {_reason(error)}. "
                "Expected: a PEM certificate chain and its unencrypted PEM key"
            ) from None
        if self._client_ca is not None:
            try:
                context.load_verify_locations(self._client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
            except (ssl.SSLError, OSError) as error:
                raise ConfigError(
                    f"tls_client_ca: {self._client_ca}: {_reason(error)}. Expected: PEM certificates"
                ) from None
        return (contents[self._cert], contents[self._key], contents.get(self._client_ca)), context


def _reason(error: OSError) -> str:
    # An SSLError, which is an OSError, has OpenSSL's own word for it.
    return str(getattr(error, "reason", None) or error.strerror or error)
