"""Whether a service keeps more and more memory, judged from outside and from inside."""

from __future__ import annotations

import json
import statistics

from tests.chaos.load import Figures, rss_mib
from tests.objects import make_object
from tests.server import Client

#: A module of handlers: its hook `memory` tells what the process holds. C code gets its memory from malloc,
#: Python its small objects (up to 512 bytes) from a heap of its own, which counts them.
MEASURING = """
import ctypes, json, sys
from coprocess import Pre, respond

names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"

class Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Mallinfo2

@Pre
def memory(request):
    info = libc.mallinfo2()
    found = {"malloc_bytes": info.uordblks + info.hblkhd, "objects": sys.getallocatedblocks()}
    return respond(200, json.dumps(found))
"""

_MIB = 1024 * 1024


class MemorySamples:
    """Samples at equal intervals: the first quarter warms up, the last is compared with the second."""

    def __init__(self, client: Client, pid: int) -> None:
        """The service needs the handlers of `MEASURING`."""
        self._client = client
        self._pid = pid
        self._rss_mib: list[float] = []
        self._malloc_mib: list[float] = []
        self._objects: list[float] = []

    def take(self) -> None:
        self._rss_mib.append(rss_mib(self._pid))
        reply = self._client.dispatch(make_object(hook_name="memory"))
        found = json.loads(reply.request.return_overrides.response_body)
        self._malloc_mib.append(found["malloc_bytes"] / _MIB)
        self._objects.append(found["objects"])

    def figures(self) -> Figures:
        return {
            "rss_mib_by_quarter": [round(each, 1) for each in _medians(self._rss_mib)],
            "malloc_mib_by_quarter": [round(each, 1) for each in _medians(self._malloc_mib)],
            "python_objects_by_quarter": [int(each) for each in _medians(self._objects)],
        }

    def check(self, calls: int) -> None:
        """A leak of 100 bytes for each of `calls`, in Python or in C, fails; 100,000 of them at least."""
        between = calls / 2  # From the middle of the second quarter to that of the last.
        rss, malloc, objects = (_growth(each) for each in (self._rss_mib, self._malloc_mib, self._objects))
        found = self.figures()
        assert objects <= _MAX_OBJECTS_A_CALL * between, f"{objects:.0f} more Python objects: {found}"
        assert malloc <= _MAX_BYTES_A_CALL * between / _MIB, f"{malloc:.1f} MiB more from malloc: {found}"
        assert rss <= _MAX_RSS_BYTES_A_CALL * between / _MIB, f"{rss:.1f} MiB more resident: {found}"


# Threads keep for themselves what they freed, so a service without a leak also grows by a few bytes a call.
_MAX_OBJECTS_A_CALL = 0.1
_MAX_BYTES_A_CALL = 50
_MAX_RSS_BYTES_A_CALL = 90


def _medians(samples: list[float]) -> list[float]:
    quarter = len(samples) // 4
    return [statistics.median(samples[start : start + quarter]) for start in range(0, 4 * quarter, quarter)]


def _growth(samples: list[float]) -> float:
    _, second, _, last = _medians(samples)
    return last - second
