"""Who may see the admin pages, and who may have them do something.

A page that somebody opened in a browser can send requests to this machine, too, under a name of its own that
it lets point here. Its browser says that name as `Host`; it adds `Origin` or `Sec-Fetch-Site`, though not
always; and it asks before it sends a header of our own, which nobody allows it.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any
from wsgiref.types import WSGIEnvironment

#: The peer's address where the listener is a unix socket: the file's permissions say who may connect.
UNIX = "unix"
#: What those send who want something done.
COMMAND_HEADER = "X-Coprocess-Admin"
#: In the environment of a request: the names that the listener goes by, besides this machine's own.
NAMES = "coprocess.names"

Refusal = tuple[int, Any]


def refuse_command(environ: WSGIEnvironment) -> Refusal | None:
    """None where a request comes from a program on this machine; else the answer that refuses it."""
    address = environ.get("REMOTE_ADDR", "")
    if address == UNIX:
        return None
    if not _is_loopback(address):
        return 403, {"error": "this is for clients on the same machine"}
    if "HTTP_ORIGIN" in environ or "HTTP_SEC_FETCH_SITE" in environ:
        return 403, {"error": "this is not for browsers"}
    host = _host_name(environ)
    if not (_is_loopback(host) or host == "localhost" or host in environ.get(NAMES, ())):
        return _foreign(host)
    is_json = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower() == "application/json"
    if not is_json and "HTTP_X_COPROCESS_ADMIN" not in environ:
        return 403, {"error": f"this is not for browsers. Expected: a header, {COMMAND_HEADER}: 1"}
    return None


def refuse_page(environ: WSGIEnvironment) -> Refusal | None:
    """None where a page may be shown: what reaches a loopback address came by no name but this machine's.

    A listener that other machines reach is not asked for its name: their probes and scrapes use many.
    """
    if environ.get("REMOTE_ADDR") == UNIX or not _is_loopback(environ.get("SERVER_NAME", "")):
        return None
    host = _host_name(environ)
    if not host or host == "localhost" or _is_address(host) or host in environ.get(NAMES, ()):
        return None
    return None if host == socket.gethostname().lower() else _foreign(host)


def _foreign(host: str) -> Refusal:
    shown = repr(host[:100]) if host else "none"
    return 403, {
        "error": f"Host: {shown} is no name of this service. Expected: its address, or one of admin_hosts"
    }


def _host_name(environ: WSGIEnvironment) -> str:
    """The name in `Host`, without its port; empty where there is none, or none that can be read."""
    host: str = environ.get("HTTP_HOST", "").strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].removesuffix(".")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address == "localhost"
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback
