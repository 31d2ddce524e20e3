"""The store's URLs, and that no credentials are shown."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from coprocess.errors import ConfigError
from coprocess.store import Store, parse_url
from tests.free_ports import free_port
from tests.store.stores import (
    PASSWORD,
    PASSWORD_IN_URL,
    assert_fails_in_time,
    chain_text,
    opened,
    run,
    use_all_operations,
    use_all_operations_async,
)
from tests.valkey import ValkeyProcess


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+cluster", "redis+sentinel"])
def test_no_credentials_in_errors_when_unreachable(scheme: str) -> None:
    path = "/mymaster" if scheme == "redis+sentinel" else ""
    url = f"{scheme}://someuser:{PASSWORD_IN_URL}@127.0.0.1:{free_port()}{path}"
    with opened(url) as store:
        for action in (lambda: store.get("k"), lambda: run(lambda: store.aio.get("k"))):
            text = chain_text(assert_fails_in_time(action)) + store.describe()
            for secret in (PASSWORD, PASSWORD_IN_URL, "someuser"):
                assert secret not in text
            assert "127.0.0.1" in text


def test_no_credentials_in_errors_when_refused(tmp_path: Path) -> None:
    with ValkeyProcess(tmp_path / "server", tcp=True, requirepass=PASSWORD) as server:
        with opened(f"redis://:{PASSWORD_IN_URL}@127.0.0.1:{server.port}/3") as store:
            use_all_operations(store)
            asyncio.run(use_all_operations_async(store))
            assert store.describe() == f"redis://127.0.0.1:{server.port}/3"
        for credentials in (f"someuser:{PASSWORD_IN_URL}x@", f":{PASSWORD_IN_URL}x@", ""):
            with opened(f"redis://{credentials}127.0.0.1:{server.port}") as store:
                for action in (lambda: store.get("k"), lambda: run(lambda: store.aio.get("k"))):
                    text = chain_text(assert_fails_in_time(action))
                    for secret in (PASSWORD, PASSWORD_IN_URL, "someuser"):
                        assert secret not in text
    # A server that names the user in its answer.
    with (
        ValkeyProcess(tmp_path / "acl", tcp=True) as server,
        opened(f"redis://someuser:pw@127.0.0.1:{server.port}") as store,
    ):
        assert server.command("ACL", "SETUSER", "someuser", "on", ">pw", "~*", "-@all") == b"+OK\r\n"
        error = assert_fails_in_time(lambda: store.get("k"))
        assert "permissions" in str(error)
        assert "someuser" not in chain_text(error)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("s3cret", "must start with"),
        ("s3cret://host", "must start with"),
        ("http://:s3cret@host", "must start with"),
        ("redis://", "host is missing"),
        ("redis://:s3cret@", "host is missing"),
        ("redis://host:s3cret", "port"),
        ("redis://host:70000", "port"),
        ("redis://host:٣", "port"),
        ("redis://:s3cret/x@host", "percent-encoded"),
        ("redis://user:1/s3cret@host", "percent-encoded"),
        ("redis://:s3cret?x@host", "percent-encoded"),
        ("redis://:a@s3cret@host", "percent-encoded"),
        ("redis://[s3cret", "well-formed"),
        ("redis://:s3cret\u2100@host", "well-formed"),
        ("redis://host/s3cret", "database"),
        ("redis://host/1/s3cret", "too many"),
        ("redis://host#s3cret", "percent-encoded"),
        ("redis://host?s3cret=1", "unknown option"),
        ("redis://host,other", "several hosts"),
        ("redis+cluster://host/1", "no database"),
        ("redis+sentinel://host", "name for the primary"),
        ("unix://relative", "unix:///absolute"),
        ("unix://:s3cret/x", "unix:///absolute"),
        ("unix:///x?db=s3cret", "database"),
    ],
)
def test_bad_urls(url: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)) as caught:
        Store().configure(url)
    assert "s3cret" not in chain_text(caught.value)


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("redis://u:p@db", "redis://db:6379/0"),
        ("rediss://db:1/2", "rediss://db:1/2"),
        ("redis://[::1]:7/2", "redis://[::1]:7/2"),
        ("unix:///run/v.sock?db=2", "unix:///run/v.sock?db=2"),
        ("unix://:p@/run/v.sock", "unix:///run/v.sock"),
        ("redis+cluster://:p@a:1,b", "redis+cluster://a:1,b:6379"),
        ("rediss+sentinel://a,b:2/main/1?sentinel_password=p", "rediss+sentinel://a:26379,b:2/main/1"),
    ],
)
def test_labels_have_no_credentials(url: str, label: str) -> None:
    address = parse_url(url)
    assert address.label == label
    assert "'p'" not in repr(address)


def test_bad_numbers() -> None:
    for timeout_s in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="timeout_s"):
            Store().configure("redis://h", timeout_s=timeout_s)
    with pytest.raises(ConfigError, match="max_connections"):
        Store().configure("redis://h", max_connections=0)
