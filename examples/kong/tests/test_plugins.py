"""What both plugins promise, at a simulated Kong: `pytest examples/kong`."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from pathlib import Path

import pytest

from coprocess.testing import Kong

PLUGINS = Path(__file__).parents[1] / "plugins"


@pytest.mark.coprocess(plugins=PLUGINS / "py_hello.py", config={"message": "good day"})
def test_hello(kong: Kong) -> None:
    result = kong.get("/", headers={"Host": "shop.test"})
    assert result.ok
    assert result.headers["x-hello-from-python"] == "good day shop.test"


def signed(certificate: str, key: str, at: float | None = None) -> dict[str, str]:
    when = str(int(time.time() if at is None else at))
    signature = hashlib.sha256(f"{certificate}|{key}|{when}".encode()).hexdigest()
    return {
        "client-certificate-id": certificate,
        "client-request-signature": signature,
        "client-request-time": when,
    }


@pytest.fixture
def guarded(kong: Kong, tmp_path: Path) -> Kong:
    database = tmp_path / "customers.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE customer (uuid TEXT, certificate TEXT, client_key TEXT)")
        connection.executemany(
            "INSERT INTO customer VALUES (?, ?, ?)",
            [("u-1", "cert-1", "k-1"), ("u-2", "cert-2", ""), ("u-3", "cert-3", None)],
        )
    connection.close()
    kong.configure({"database": f"sqlite:{database}"})
    return kong


guard = pytest.mark.coprocess(
    plugins=PLUGINS / "customer_verification.py", config={"database": "sqlite:/nowhere"}
)


@guard
def test_a_signed_request_passes(guarded: Kong) -> None:
    result = guarded.get("/", headers={**signed("cert-1", "k-1"), "X-Customer-Id": "u-9"})
    assert result.status == 200
    assert result.upstream is not None
    assert result.upstream.headers.getall("X-Customer-Id") == ["u-1"]


@guard
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 400),
        (signed("cert-1", "wrong"), 403),
        (signed("nobody", "k-1"), 403),
        # Without a key, everybody could sign.
        (signed("cert-2", ""), 403),
        (signed("cert-3", ""), 403),
        (signed("nobody", ""), 403),
        # What would be code, were the id put into the query's text.
        (signed("' OR '1'='1", "k-1"), 403),
        (signed("x' UNION SELECT 'u-1', 'mine' --", "mine"), 403),
        # Seen an hour ago, and sent again.
        (signed("cert-1", "k-1", time.time() - 3600), 403),
        ({**signed("cert-1", "k-1"), "client-request-time": "soon"}, 403),
    ],
)
def test_others_do_not(guarded: Kong, headers: dict[str, str], status: int) -> None:
    result = guarded.get("/", headers=headers)
    assert result.status == status
    assert result.upstream is None


@guard
def test_without_its_database_nobody_passes(kong: Kong) -> None:
    result = kong.get("/", headers=signed("cert-1", "k-1"))
    assert result.status == 500
    assert result.upstream is None
