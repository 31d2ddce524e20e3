"""How the C library's allocator keeps what was freed: messages of megabytes come again and again.

By itself glibc gives a thread's memory back as soon as some MiB of it are free. The system then hands out
the same pages anew, cleared, for the next message: a third of the time of a call with 1 MiB of body.
"""

from __future__ import annotations

import os
import sys
from typing import Final

_MIB: Final = 2**20
#: By glibc's malloc.h: the parameter, its value here, and the variable by which it is set from outside.
_M_TRIM_THRESHOLD: Final = (-1, 128 * _MIB, "MALLOC_TRIM_THRESHOLD_")
_M_MMAP_THRESHOLD: Final = (-3, 32 * _MIB, "MALLOC_MMAP_THRESHOLD_")
#: Pools of memory, each of which keeps as much, and is given back as a whole. Threads that allocate hold the
#: interpreter's lock most of the time, so that one is enough.
_M_ARENA_MAX: Final = (-8, 1, "MALLOC_ARENA_MAX")


def keep_freed_memory() -> None:
    """Of this process, from now on; to be called before it has threads.

    What the environment sets stays as it is. Does nothing where the C library is another.
    """
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ:
        return
    import ctypes  # Here, as only processes that serve need it.

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for parameter, value, variable in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX):
        if variable not in os.environ:
            mallopt(parameter, value)
