"""Log entries that others can cause by the thousand: some of each kind are written, the rest is counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Literal

from structlog.typing import FilteringBoundLogger

#: Entries of one kind that are written in one window.
MOST = 10
WINDOW_S = 10.0


@dataclass(slots=True)
class _Kind:
    event: str
    fields: dict[str, Any]
    count: int = 0


class LimitedLog:
    """Writes the first `MOST` entries of a kind in each window, and at its end, how many more there were.

    To be used by any thread. `end_window` must be called from time to time.
    """

    def __init__(self, log: FilteringBoundLogger, window_s: float = WINDOW_S) -> None:
        self._log = log
        self._window_s = window_s
        self._lock = threading.Lock()
        self._kinds: dict[Hashable, _Kind] = {}
        self._since_s = 0.0

    def write(
        self,
        level: Literal["warning", "error"],
        kind: Hashable,
        event: str,
        *,
        traceback: Callable[[], str] | None = None,
        **fields: Any,
    ) -> None:
        """Log `event`. No word of a caller may be part of `kind`: there would be any number of them.

        `traceback` is called where the entry is written only.
        """
        with self._lock:
            if not self._kinds:
                self._since_s = time.monotonic()
            known = self._kinds.setdefault(kind, _Kind(event, fields))
            known.count += 1
            if known.count > MOST:
                return
        # The kind keeps no traceback: that would keep all that its frames hold.
        getattr(self._log, level)(
            event, **fields, **({} if traceback is None else {"exception": traceback()})
        )

    def end_window(self, *, now: bool = False) -> None:
        """Tell what was not written, when the window is over, or now."""
        if not self._kinds or not (now or time.monotonic() - self._since_s >= self._window_s):
            return
        with self._lock:
            kinds, self._kinds = self._kinds, {}
            seconds = time.monotonic() - self._since_s
        for kind in kinds.values():
            if kind.count > MOST:
                self._log.warning(
                    "more of the same",
                    of=kind.event,
                    not_logged=kind.count - MOST,
                    within_s=round(seconds, 1),
                    **kind.fields,
                )
