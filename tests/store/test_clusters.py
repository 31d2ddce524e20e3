"""Clusters and sentinels."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from coprocess.errors import StoreError
from tests.free_ports import free_port
from tests.store.stores import (
    DEADLINE_BOUND_S,
    assert_fails_in_time,
    in_the_end,
    in_the_end_async,
    opened,
    run,
    use_all_operations,
    use_all_operations_async,
)
from tests.valkey import ValkeyProcess


def test_a_cluster(tmp_path: Path) -> None:
    with ValkeyProcess(
        tmp_path / "node", tcp=True, cluster_enabled="yes", appendonly="yes", cluster_announce_ip="127.0.0.1"
    ) as node:
        assert node.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383") == b"+OK\r\n"
        wait_until(lambda: b"cluster_state:ok" in node.command("CLUSTER", "INFO"))
        # The second host answers nothing.
        url = f"redis+cluster://127.0.0.1:{node.port},127.0.0.1:{free_port()}"
        with opened(url) as store, opened(url, timeout_s=1.0) as hasty:
            use_all_operations(store)
            asyncio.run(use_all_operations_async(store))
            for number in range(20):
                store.set(f"k{number}", number)
            assert [store.get(f"k{number}") for number in range(20)] == [b"%d" % n for n in range(20)]

            async def frozen() -> None:
                await store.aio.ping()
                in_the_end(hasty.ping)
                await in_the_end_async(hasty.aio.ping)
                node.freeze()
                assert_fails_in_time(lambda: hasty.get("k1"))
                started = time.monotonic()
                with pytest.raises(StoreError):
                    await hasty.aio.get("k1")
                assert time.monotonic() - started < DEADLINE_BOUND_S
                node.thaw()
                assert in_the_end(lambda: hasty.get("k1")) == b"1"
                assert await in_the_end_async(lambda: hasty.aio.get("k1")) == b"1"
                assert node.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes").startswith(b":")
                assert store.increment("new") == 1
                assert await store.aio.increment("new") == 2

            asyncio.run(frozen())


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_BOUND_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_sentinel(tmp_path: Path) -> None:
    with ValkeyProcess(tmp_path / "primary", tcp=True) as primary:
        config = f"sentinel monitor mymaster 127.0.0.1 {primary.port} 1"
        with ValkeyProcess(tmp_path / "sentinel", sentinel_config=config) as sentinel:
            # The first sentinel is down.
            hosts = f"127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}"
            with opened(f"redis+sentinel://{hosts}/mymaster/1") as store:
                use_all_operations(store)
                asyncio.run(use_all_operations_async(store))
            assert b"db1:keys" in primary.command("INFO", "keyspace")
            with opened(f"redis+sentinel://{hosts}/mymaster/1", timeout_s=1.0) as store:
                assert in_the_end(lambda: store.get("n")) == b"-4"
                primary.freeze()
                assert_fails_in_time(lambda: store.get("n"))
                assert_fails_in_time(lambda: run(lambda: store.aio.get("n")))
                primary.thaw()
                wait_until(lambda: b"master_down" not in sentinel.command("INFO", "sentinel"))
                assert in_the_end(lambda: store.get("n")) == b"-4"
            with opened(f"redis+sentinel://127.0.0.1:{sentinel.port}/unknown") as store:
                for action in (lambda: store.get("k"), lambda: run(lambda: store.aio.get("k"))):
                    assert "no sentinel" in str(assert_fails_in_time(action))
