"""Where this process listens: for its gateway, for webhooks, and for those who look after it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import structlog

from coprocess.addresses import find_owner, is_local
from coprocess.process import forks
from coprocess.process.config import OFF, Settings
from coprocess.process.systemd import address_of
from coprocess.runtime.service import Service
from coprocess.transport import listeners
from coprocess.transport.engine import Engine, ListenError

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

log = structlog.get_logger("coprocess")


class Listening:
    """What it opens, `at_end` closes; children that handlers fork let go of it."""

    def __init__(
        self,
        settings: Settings,
        addresses: Sequence[str],
        inherited: Sequence[socket.socket],
        *,
        is_worker: bool,
    ) -> None:
        """`addresses` are the gateway's. In their place are those `inherited`, where there are any."""
        self._settings = settings
        self._addresses = addresses
        self.inherited = inherited
        self._is_worker = is_worker

    def for_gateway(self, engine: Engine, at_end: ExitStack) -> list[str]:
        """The addresses, with the ports that were given for 0."""
        if not self.inherited:
            return [self._listen(engine, address, at_end) for address in self._addresses]
        # Their paths are not for this process to remove.
        bound = [address_of(each) for each in self.inherited]
        self._check_secured(bound)
        for each, address in zip(self.inherited, bound, strict=True):
            engine.listen_on(each)
            at_end.callback(forks.keep_address_from_children(address))
        return bound

    def _check_secured(self, inherited: list[str]) -> None:
        """As the settings check `listen`."""
        settings = self._settings
        public = [address for address in inherited if not is_local(address)]
        if public and settings.tls_cert is None and not settings.insecure_public:
            raise ListenError(
                f"systemd passes {', '.join(public)}: other machines can reach it, and it is plaintext. "
                "Expected: ListenStream= with a loopback address or a path, or tls_cert and tls_key, or "
                "insecure_public"
            )

    def _listen(self, engine: Engine, address: str, at_end: ExitStack) -> str:
        bound = listeners.listen(address, engine.listen, self._socket_access(), take_over=engine.takes_over)
        if engine.takes_over:
            bound = address  # It was bound beside.
        at_end.callback(listeners.remove_socket, bound)
        at_end.callback(forks.keep_address_from_children(bound))
        return bound

    def for_admin(self, pages: WSGIApplication, at_end: ExitStack) -> None:
        from coprocess.process.admin_http import AdminServer

        settings = self._settings
        # A worker's pages are for its front alone.
        access = listeners.SocketAccess() if self._is_worker else self._socket_access()
        try:
            admin = listeners.listen(
                settings.admin, lambda address: AdminServer(address, tuple(settings.admin_hosts)), access
            )
        except ListenError as error:
            if "admin" in settings.model_fields_set:
                raise
            # Several services on one machine are no reason to fail, when nobody asked for this listener.
            log.warning("the default admin address is taken: none is served", reason=str(error))
            return
        at_end.callback(admin.close)
        at_end.callback(forks.keep_address_from_children(admin.address))
        admin.start(pages)
        (log.debug if self._is_worker else log.info)("admin", listen=admin.address)

    def for_webhooks(
        self, service: Service, is_open: Callable[[], bool], at_end: ExitStack
    ) -> Callable[[], None]:
        """What comes waits until the function that this gives is called."""
        if self._settings.events_listen == OFF:
            return lambda: None
        from coprocess.process.webhooks import listen_for_webhooks

        server, start = listen_for_webhooks(self._settings, service, is_open, self._socket_access())
        at_end.callback(server.close)
        at_end.callback(forks.keep_address_from_children(server.address))
        log.info("webhooks", listen=server.address)
        return start

    def _socket_access(self) -> listeners.SocketAccess:
        """Of unix sockets."""
        owner = self._settings.unix_socket_owner
        return listeners.SocketAccess(self._settings.unix_socket_mode, *(find_owner(owner) if owner else ()))
