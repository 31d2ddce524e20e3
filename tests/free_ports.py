"""Ports for servers that bind them themselves: of those that the system gives nobody who asks for any port.

Between the look and the bind, some other process of the tests would now and then be given one of the rest.
"""

from __future__ import annotations

import os
import random
import socket
from contextlib import ExitStack

#: Linux gives ports from 32768 on. 10000 more, which is the bus of a cluster's node, is less still.
_FIRST, _END = 10_000, 22_000
#: Its own: Hypothesis seeds the module's, alike in all processes.
_random = random.SystemRandom()
#: Each process of a run has ports of its own: of 200 looks in four processes, two would now and then agree.
_PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


def free_ports(count: int) -> list[int]:
    """Loopback ports, all different, that were free a moment ago."""
    with ExitStack() as held:
        found: list[int] = []
        while len(found) < count:
            port = _random.randrange(_FIRST + _PROCESS, _END, _PROCESSES)
            probe = held.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
        return found


def free_port() -> int:
    return free_ports(1)[0]
