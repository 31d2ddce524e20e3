#!/usr/bin/env python3
"""Who calls is told by a certificate's id, and proved by a signature with the key that belongs to it.

The signature is SHA-256 of `id|key|time` in hexadecimal. The keys are in a database: SQLite or PostgreSQL.

Plugins of this kind are often seen with these faults; here it is otherwise, and why:

- The id is a *parameter* of the query. Put into its text, an id such as `' OR '1'='1` reads what it
  likes.
- A certificate that is unknown, or has no key, is refused. With the key left empty, anybody can compute
  `id||time`, and is let in.
- Each failure refuses the request, also one of the database. Nothing is done after `kong.response.exit`.
- Signatures are compared in a time that does not tell how much of them is right.
- The time must be a recent one: else who has seen one request can send it again for ever.
"""

from __future__ import annotations

import hashlib
import hmac
import queue
import time
from typing import Any

import kong_pdk.pdk.kong as kong

Schema = (
    # sqlite:PATH, or a URL of PostgreSQL: postgresql://user:password@host/database
    {"database": {"type": "string", "required": True, "referenceable": True}},
    {"max_age_s": {"type": "integer", "default": 300, "gt": 0}},
)
version = "1.0.0"
priority = 1000

_ID, _SIGNATURE, _TIME = "client-certificate-id", "client-request-signature", "client-request-time"


class Plugin:
    def __init__(self, config: dict[str, Any]) -> None:
        self.customers = Customers(config["database"])
        self.max_age_s = config["max_age_s"]

    def access(self, kong: kong.kong) -> None:
        certificate_id, _ = kong.request.get_header(_ID)
        signature, _ = kong.request.get_header(_SIGNATURE)
        request_time, _ = kong.request.get_header(_TIME)
        if not (certificate_id and signature and request_time):
            refuse(kong, 400, "Invalid Headers")
            return
        # What a client sends under this name is a claim, and nobody has proved it.
        kong.service.request.clear_header("X-Customer-Id")
        if not is_recent(request_time, self.max_age_s):
            refuse(kong, 403, "Access Forbidden")
            return
        customer = self.customers.find(certificate_id)
        if customer is None or not is_signed(certificate_id, customer[1], request_time, signature):
            refuse(kong, 403, "Access Forbidden")
            return
        kong.service.request.set_header("X-Customer-Id", customer[0])


def refuse(kong: kong.kong, status: int, message: str) -> None:
    kong.response.exit(status, {"message": message})


def is_recent(request_time: str, max_age_s: int) -> bool:
    """Whether it is a time in seconds since 1970, and not too far from now."""
    try:
        return abs(time.time() - int(request_time)) <= max_age_s
    except ValueError:
        return False


def is_signed(certificate_id: str, key: str, request_time: str, signature: str) -> bool:
    if not key:
        return False
    signed = f"{certificate_id}|{key}|{request_time}".encode("utf-8", "surrogateescape")
    expected = hashlib.sha256(signed).hexdigest()
    return hmac.compare_digest(expected.encode(), signature.lower().encode("utf-8", "surrogateescape"))


class Customers:
    """The table `customer`: `uuid`, `certificate`, `client_key`. Its connections are used one by one."""

    def __init__(self, database: str) -> None:
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        self._connect, mark = _driver(database)
        self._query = f"SELECT uuid, client_key FROM customer WHERE certificate = {mark}"  # noqa: S608 - no value

    def find(self, certificate_id: str) -> tuple[str, str] | None:
        """The customer's id and key; None where there is not exactly one. Raises what the database raises."""
        try:
            certificate_id.encode()
        except UnicodeEncodeError:
            # Bytes that are no text: the database has none such.
            return None
        if "\0" in certificate_id:
            return None
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = self._connect()
        try:
            cursor = connection.cursor()
            cursor.execute(self._query, (certificate_id,))
            rows = cursor.fetchmany(2)
            cursor.close()
            connection.rollback()
        except BaseException:
            # It may be of no use any more: the next request has a new one.
            connection.close()
            raise
        self._idle.put(connection)
        return (str(rows[0][0]), str(rows[0][1] or "")) if len(rows) == 1 else None

    def __del__(self) -> None:
        # Kong has closed the instance, or the configuration is another now.
        while not self._idle.empty():
            self._idle.get_nowait().close()


def _driver(database: str) -> tuple[Any, str]:
    """What connects, and how its queries mark a parameter."""
    if database.startswith("sqlite:"):
        import sqlite3

        path = database.removeprefix("sqlite:")
        # Read only, and a file that is not there is an error, not an empty database.
        url = f"file:{path}?mode=ro"
        return lambda: sqlite3.connect(url, uri=True, timeout=5, check_same_thread=False), "?"
    if database.startswith(("postgresql://", "postgres://")):
        import psycopg

        return lambda: psycopg.connect(database, connect_timeout=5), "%s"
    raise ValueError("database: expected sqlite:PATH or postgresql://…")


if __name__ == "__main__":
    from kong_pdk.cli import start_dedicated_server

    start_dedicated_server("customer-verification", Plugin, version, priority, Schema)
