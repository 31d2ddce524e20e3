"""tyk.conf against this service's settings."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from coprocess.addresses import normal_address
from coprocess.desk.findings import FileFinding, Severity
from coprocess.desk.tyk.doctor.document import Document
from coprocess.desk.tyk.doctor.project import Project
from coprocess.desk.tyk.fields import Field

_OPTIONS = "coprocess_options"
_SERVER = f"{_OPTIONS}.coprocess_grpc_server"
#: What gRPC takes where nothing is set.
_DEFAULT_LIMIT = 4 * 2**20
_EVERY_HOST = ("0.0.0.0", "[::]", "::", "*")  # noqa: S104 - compared with, not bound to
_THIS_HOST = ("127.0.0.1", "localhost", "[::1]", "::1")
_NO_HOOKS = "The gateway calls no handler. Requests to APIs with hooks fail, or pass without them."


def check_conf(project: Project) -> Iterator[FileFinding]:
    """What is wrong in tyk.conf. Raises ConfigError where a value is of the wrong kind."""
    if (conf := project.conf) is None:
        return
    options = conf.root[_OPTIONS]
    if not options["enable_coprocess"].flag():
        yield conf.finding(
            Severity.ERROR,
            "conf-coprocess-off",
            options["enable_coprocess"].path,
            "enable_coprocess is not true: the gateway's plugins are switched off.",
            _NO_HOOKS,
            'Set "coprocess_options": {"enable_coprocess": true}.',
        )
    yield from _check_address(project, conf, options["coprocess_grpc_server"].text().strip())
    yield from _check_limits(project, conf, options)
    if project.settings.tls_cert is not None:
        yield conf.finding(
            Severity.WARNING,
            "conf-tls",
            _SERVER,
            "This service has tls_cert set; to plugin servers, the gateway speaks nothing but plaintext.",
            "Unless something between them adds TLS, every request with a hook fails.",
            "Take tls_cert out and listen on a unix socket or a private network, or put a TLS proxy between.",
        )
    yield from _check_bundles(project, conf)


def _check_address(project: Project, conf: Document, address: str) -> Iterator[FileFinding]:
    listen = project.settings.listen
    example = f"tcp://{listen[0]}" if not listen[0].startswith("unix:") else f"unix://{listen[0][5:]}"
    if not address:
        yield conf.finding(
            Severity.ERROR,
            "conf-no-address",
            _SERVER,
            "coprocess_grpc_server is missing or empty: the gateway does not know where this service is.",
            _NO_HOOKS,
            f'Set "coprocess_grpc_server": "{example}".',
        )
        return
    if (problem := _form_problem(address)) is not None:
        severity, text = problem
        yield conf.finding(
            severity,
            "conf-address-form",
            _SERVER,
            f'coprocess_grpc_server is "{address}": {text}.',
            "The gateway cannot connect to this service; every request with a hook is answered with an "
            "error (500, or 403 where the hook authenticates).",
            f'Write it as "tcp://HOST:PORT", "unix:///PATH" or "dns:///NAME:PORT", for instance "{example}".',
        )
        if severity is Severity.ERROR:
            return
    mismatch = _mismatch(address, listen)
    if mismatch is not None:
        severity, text = mismatch
        yield conf.finding(
            severity,
            "conf-address-mismatch",
            _SERVER,
            f"The gateway dials {address}, but this service listens on {', '.join(listen)}: {text}.",
            "The gateway reaches no plugin server: requests with hooks are answered with 500 "
            "(403 where the hook authenticates).",
            f'Set "coprocess_grpc_server": "{example}", or `listen` in coprocess.toml to the address that '
            "the gateway dials.",
        )


def _form_problem(address: str) -> tuple[Severity, str] | None:
    """None where the gateway takes it."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        if address.startswith(("unix:/", "dns:")):
            return None
        if address[0].isdigit() or address[0] == "[":
            return Severity.ERROR, "it has no scheme, and the gateway reads it as a broken URL"
        return Severity.WARNING, "it has no scheme; only some versions of the gateway take that"
    if scheme not in ("tcp", "unix", "dns"):
        return Severity.ERROR, f"the gateway does not know {scheme}://"
    if scheme == "unix":
        # Two slashes: what follows would be the URL's host.
        return None if rest.startswith("/") else (Severity.ERROR, "a socket's path begins with a slash")
    host, colon, port = rest.rpartition("/")[2].rpartition(":")
    if not colon or not port.isdigit() or not 0 < int(port) < 65536:
        return Severity.ERROR, "it has no port"
    if scheme == "dns" and not rest.startswith("/"):
        return Severity.ERROR, "after dns: come three slashes, or the name is taken for a DNS server's"
    if not host:
        return Severity.WARNING, "it has no host"
    return None


def _mismatch(address: str, listen: list[str]) -> tuple[Severity, str] | None:
    if address.startswith("unix:"):
        if normal_address(address) in listen:
            return None
        return Severity.ERROR, "that is another socket"
    host, _, port = address.split("://")[-1].rpartition("/")[2].rpartition(":")
    is_local = host.lower() in _THIS_HOST or not host
    ours = [urlsplit(f"//{each}") for each in listen if not each.startswith("unix:")]
    if not ours:
        return Severity.ERROR, "that is a socket, and no port"
    same_port = [each for each in ours if str(each.port) == port]
    if not same_port:
        # A container's port may be published under another one: then the host is not this one.
        return (Severity.ERROR if is_local else Severity.WARNING), f"nothing listens on port {port}"
    for each in same_port:
        own = each.netloc.rpartition(":")[0]
        if own in _EVERY_HOST or own.lower() == host.lower() or (own in _THIS_HOST and is_local):
            return None
    own = same_port[0].netloc.rpartition(":")[0]
    if own in _THIS_HOST:
        return Severity.WARNING, "only programs on this service's own machine or container reach it there"
    return Severity.WARNING, "these are different hosts, unless names or networks make them one"


def _check_limits(project: Project, conf: Document, options: Field) -> Iterator[FileFinding]:
    ours = project.settings.max_message_bytes
    for name, way in (("grpc_recv_max_size", "from this service"), ("grpc_send_max_size", "to this service")):
        stated = options[name].number()
        limit = stated if stated > 0 else _DEFAULT_LIMIT
        if limit == ours:
            continue
        shown = f"{name} is {stated}" if stated > 0 else f"{name} is not set, which means {_DEFAULT_LIMIT}"
        least = min(limit, ours)
        yield conf.finding(
            Severity.WARNING,
            "conf-message-limits",
            f"{_OPTIONS}.{name}",
            f"{shown} bytes for messages {way}; max_message_bytes of this service is {ours}.",
            f"A message of more than {least} bytes fails, and with it the request. A body that is text "
            f"travels twice in one message, so bodies of more than about {least // 2} bytes are affected.",
            f'Set "{name}": {ours} in coprocess_options, or max_message_bytes in coprocess.toml to {limit}.',
        )


def _check_bundles(project: Project, conf: Document) -> Iterator[FileFinding]:
    named = [api for api in project.apis if api.bundle]
    if not named:
        return
    missing = []
    if not conf.root["enable_bundle_downloader"].flag():
        missing.append("enable_bundle_downloader")
    if not conf.root["bundle_base_url"].text():
        missing.append("bundle_base_url")
    for name in missing:
        yield conf.finding(
            Severity.ERROR,
            "conf-bundles-off",
            name,
            f"{named[0].document.path} names the bundle {named[0].bundle}, but {name} is not set.",
            "The gateway does not fetch the bundle and does not know which hooks to call.",
            'Set "enable_bundle_downloader": true and "bundle_base_url" to where bundles are served from.',
        )
