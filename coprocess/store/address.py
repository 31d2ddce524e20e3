"""Where a store's data is: its URL understood, its credentials kept out of sight."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, NoReturn
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from coprocess.errors import ConfigError

_SCHEMES: dict[str, tuple[Literal["single", "cluster", "sentinel"], bool]] = {
    "redis": ("single", False),
    "rediss": ("single", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
}
TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")
_SHORTEST_ANYWHERE = 6
_ENCODE_HINT = "(in a user name or password, write / ? # @ : % percent-encoded)"


@dataclass(frozen=True)
class Address:
    """Where a store's data is. `label` is the URL without credentials; only it may be shown."""

    mode: Literal["single", "cluster", "sentinel"]
    label: str
    hosts: tuple[tuple[str, int], ...] = ()
    unix_path: str | None = None
    tls: bool = False
    db: int = 0
    sentinel_name: str = ""
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    options: dict[str, str] = field(default_factory=dict, repr=False)

    def redact(self, text: str) -> str:
        """`text`, which may be a server's or a library's, without this address's credentials."""
        secrets = [self.username, self.password, *(self.options.get(name) for name in _SENTINEL_OPTIONS)]
        for secret in filter(None, secrets):
            for form in {secret, quote(secret, safe=""), repr(secret)[1:-1]}:
                if len(secret) >= _SHORTEST_ANYWHERE:
                    text = text.replace(form, "***")
                else:
                    # So short a text is in many words that are no secret: "u" in "you".
                    text = re.sub(rf"(?<=[\"':/]){re.escape(form)}(?=[\"':@])", "***", text)
        return text


def parse_url(url: str) -> Address:
    """Understand a store URL. ConfigError says what is wrong, and repeats no part of the URL.

    redis://[user:password@]host[:port][/db], rediss:// for TLS, unix:///path[?db=n],
    redis+cluster://host:port,host2:port, redis+sentinel://host:port,host2:port/name[/db], and both with
    rediss+. Options after `?`: ssl_ca_certs, ssl_certfile, ssl_keyfile, ssl_cert_reqs, ssl_check_hostname
    with TLS; sentinel_username and sentinel_password with sentinels.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = None  # The library's text may quote the URL; ours is raised below, outside this handler.
    if parts is None:
        _refuse(f"it is not a well-formed URL {_ENCODE_HINT}")
    if parts.scheme == "unix":
        return _parse_unix(parts)
    if "://" not in url or parts.scheme not in _SCHEMES:
        _refuse(f"it must start with one of unix://, {', '.join(f'{name}://' for name in _SCHEMES)}")
    mode, tls = _SCHEMES[parts.scheme]
    if parts.fragment or "@" in parts.path + parts.query:
        _refuse(f"there is a / ? or # before the host, or a # after it {_ENCODE_HINT}")
    username, password, host_list = _split_credentials(parts.netloc)
    hosts = _parse_hosts(host_list, default_port=26379 if mode == "sentinel" else 6379)
    segments = [unquote(segment) for segment in parts.path.split("/") if segment]
    name = ""
    if mode == "sentinel":
        if not segments:
            _refuse("the sentinels' name for the primary is missing: redis+sentinel://host:26379/name")
        name = segments.pop(0)
    if mode == "single" and len(hosts) > 1:
        _refuse("several hosts need redis+cluster:// or redis+sentinel://")
    if len(segments) > (mode != "cluster"):
        _refuse("a cluster has no database number" if mode == "cluster" else "the path has too many parts")
    db = _parse_db(segments[0]) if segments else 0
    allowed = (TLS_OPTIONS if tls else ()) + (_SENTINEL_OPTIONS if mode == "sentinel" else ())
    label_hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in hosts)
    label_path = {"single": f"/{db}", "cluster": "", "sentinel": f"/{name}/{db}"}[mode]
    return Address(
        mode=mode,
        label=f"{parts.scheme}://{label_hosts}{label_path}",
        hosts=hosts,
        tls=tls,
        db=db,
        sentinel_name=name,
        username=username,
        password=password,
        options=_parse_options(parts.query, allowed),
    )


def library_url(address: Address) -> str:
    """`address` as redis-py and the libraries upon it write URLs, with its credentials."""
    user = ""
    if address.username is not None or address.password is not None:
        user = f"{quote(address.username or '', safe='')}:{quote(address.password or '', safe='')}@"
    options = dict(address.options)
    if address.unix_path is not None:
        if address.db:
            options["db"] = str(address.db)
        return _with_options(f"redis+unix://{user}{address.unix_path}", options)
    hosts = ",".join(f"{host}:{port}" for host, port in address.hosts)
    if address.mode == "cluster":
        return _with_options(f"redis+cluster://{user}{hosts}", options)
    if address.mode == "sentinel":
        return _with_options(f"redis+sentinel://{user}{hosts}/{address.sentinel_name}", options)
    scheme = "rediss" if address.tls else "redis"
    return _with_options(f"{scheme}://{user}{hosts}/{address.db}", options)


def _with_options(url: str, options: dict[str, str]) -> str:
    return f"{url}?{urlencode(options)}" if options else url


def _parse_unix(parts: SplitResult) -> Address:
    username, password, host_list = _split_credentials(parts.netloc)
    path = unquote(parts.path)
    if host_list or not path.startswith("/") or parts.fragment:
        _refuse(f"a unix socket is written unix:///absolute/path?db=0 {_ENCODE_HINT}")
    db = _parse_db(_parse_options(parts.query, ("db",)).get("db", "0"))
    label = f"unix://{path}" + (f"?db={db}" if db else "")
    return Address(mode="single", label=label, unix_path=path, db=db, username=username, password=password)


def _refuse(problem: str) -> NoReturn:
    raise ConfigError(f"the store's URL is wrong: {problem}")


def _split_credentials(netloc: str) -> tuple[str | None, str | None, str]:
    credentials, _, host_list = netloc.rpartition("@")
    if "@" in credentials:
        _refuse(f"there is more than one @ {_ENCODE_HINT}")
    username, _, password = credentials.partition(":")
    return unquote(username) or None, unquote(password) or None, host_list


def _parse_hosts(host_list: str, default_port: int) -> tuple[tuple[str, int], ...]:
    hosts = []
    for entry in host_list.split(","):
        if entry.startswith("["):
            host, _, port = entry[1:].partition("]")
            port = port.removeprefix(":")
        else:
            host, _, port = entry.partition(":")
        if not host:
            _refuse("a host is missing")
        port = port or str(default_port)
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            _refuse(f"a port is not a number from 1 to 65535 {_ENCODE_HINT}")
        hosts.append((host, int(port)))
    return tuple(hosts)


def _parse_db(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        _refuse("the database must be a number")
    return int(text)


def _parse_options(query: str, allowed: tuple[str, ...]) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    if not options.keys() <= set(allowed):
        _refuse(f"it has an unknown option; known here: {', '.join(allowed) or 'none'}")
    return options
