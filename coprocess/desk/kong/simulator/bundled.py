"""Plugins of Kong's own that stand beside external ones: as little of them as those can see."""

from __future__ import annotations

from collections.abc import Callable

from coprocess.desk.kong.simulator.entities import PluginEntity
from coprocess.desk.kong.simulator.exchange import Exchange, Exit
from coprocess.desk.kong.simulator.http import parse_args
from coprocess.desk.kong.simulator.lua import table


def key_auth(x: Exchange, entity: PluginEntity) -> None:
    """`key-auth`: who calls is told by a key in a header or the query."""
    key: bytes | None = None
    for name in entity.config.get("key_names") or ["apikey"]:
        header = x.request.headers.get(name.encode())
        values = parse_args(x.request.query).get(name.encode(), [])
        argument = values[0] if values and isinstance(values[0], bytes) else None
        key = key or header or argument
    if not key:
        _refuse(x, b"No API key found in request")
    for consumer in x.kong.entities.consumers:
        for credential in consumer.keys:
            if str(credential["key"]).encode() != key:
                continue
            x.consumer = consumer
            made = {"created_at": x.kong.facts.created_at, "consumer": {"id": consumer.id}}
            x.credential = table({**credential, **made})
            _tell(x, "X-Consumer-ID", consumer.id)
            _tell(x, "X-Consumer-Custom-ID", consumer.custom_id)
            _tell(x, "X-Consumer-Username", consumer.username)
            _tell(x, "X-Credential-Identifier", str(credential["id"]))
            return
    _refuse(x, b"Unauthorized")


def _tell(x: Exchange, name: str, value: str | None) -> None:
    x.request.headers.set(name.encode(), [] if value is None else [value.encode()])


def _refuse(x: Exchange, message: bytes) -> None:
    x.answer(401, message)
    x.headers.set(b"WWW-Authenticate", [b"Key"])
    x.exited = True
    raise Exit


RUN_BUNDLED: dict[str, Callable[[Exchange, PluginEntity], None]] = {"key-auth": key_auth}
