"""Requests of native handlers between their access and their response phase, each with an end in time.

Kong tells nothing where the response phase never comes: the upstream failed, or the client is gone. What the
handlers have open is closed then.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import structlog

from coprocess.error_text import format_error
from coprocess.runtime.log_limit import LimitedLog

log = structlog.get_logger("coprocess")

DEFAULT_KEEP_S: Final = 600.0
#: Of those beyond, the oldest end before their time.
_MOST: Final = 10_000
_TICK_S: Final = 1.0


class _Kept(NamedTuple):
    until_s: float
    request: Any
    end: Callable[[], None]


class KeptRequests:
    """By keys of the caller's. A thread looks at them, as long as there are any."""

    def __init__(self, tick_s: float = _TICK_S) -> None:
        self._tick_s = tick_s
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._is_watched = False
        self._log = LimitedLog(log)
        #: Those whose response phase did not come.
        self.lost = 0

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, key: str, request: Any, keep_s: float, end: Callable[[], None]) -> None:
        """`end` is called where nobody takes the request in that time. What it raises is logged."""
        kept = _Kept(time.monotonic() + keep_s, request, end)
        beyond = []
        with self._lock:
            self._kept[key] = kept
            while len(self._kept) > _MOST:
                beyond.append(self._kept.popitem(last=False)[1])
            if not self._is_watched:
                threading.Thread(target=self._watch, name="kong-kept", daemon=True).start()
                self._is_watched = True
        self._end(beyond)

    def take(self, key: str) -> Any:
        """The request, which is kept no longer; None: there is none of that key."""
        with self._lock:
            kept = self._kept.pop(key, None)
        return None if kept is None else kept.request

    def _watch(self) -> None:
        while True:
            time.sleep(self._tick_s)
            now_s = time.monotonic()
            with self._lock:
                if not self._kept:
                    self._is_watched = False
                    break
                overdue = [key for key, kept in self._kept.items() if kept.until_s < now_s]
                ended = [self._kept.pop(key) for key in overdue]
            self._end(ended)
            self._log.end_window()
        self._log.end_window(now=True)

    def _end(self, ended: list[_Kept]) -> None:
        for each in ended:
            self.lost += 1
            self._log.write(
                "warning",
                "no response phase",
                "the response phase of a request did not come in its time: the request has ended without it",
            )
            try:
                each.end()
            except Exception as error:  # noqa: BLE001 - the others are to end, too
                log.error("a request could not be ended", exception=format_error(error))


#: Of this process: also those of handlers that a reload has replaced, which run them to their end.
requests: Final = KeptRequests()
