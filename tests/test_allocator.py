"""A process that serves keeps the memory of large messages for the next ones."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CHURN = """
import resource, sys, threading
from coprocess.process.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()

def churn(times):
    for _ in range(times):
        [b"x" * (number + 2**22) for number in range(4)]

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def run():
    churn(5)
    before = faults()
    churn(20)
    print(faults() - before)

thread = threading.Thread(target=run)
thread.start()
thread.join()
"""
#: Pages that are touched each time.
PAGES = 4 * 2**22 // 4096


def faults(kept: str, **environment: str) -> int:
    command = [sys.executable, "-c", CHURN, kept]
    ran = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return int(ran.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_memory_of_large_messages_was_given_back_and_cleared_anew_for_each() -> None:
    if faults("as it was") < 10 * PAGES:
        pytest.skip("this C library keeps memory by itself")
    assert faults("kept") < PAGES


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_what_the_environment_sets_stays() -> None:
    """So an operator may have memory back sooner."""
    lower = {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}
    if faults("as it was", **lower) < 10 * PAGES:
        pytest.skip("this C library is another")
    assert faults("kept", **lower) > 10 * PAGES
