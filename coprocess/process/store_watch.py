"""Whether the store can be reached: asked at the start and every few seconds, told when it changes."""

from __future__ import annotations

import threading
from typing import Any

import structlog

from coprocess.errors import StoreError
from coprocess.process.redaction import redact_text
from coprocess.store import Store

log = structlog.get_logger("coprocess")

INTERVAL_S = 5.0


class StoreWatch:
    """Asks from a thread of its own, so that a store that is slow holds up nothing."""

    def __init__(self, store: Store, *, quiet: bool = False) -> None:
        """`quiet`: one of several processes tells, and it is another."""
        self._store = store
        self._quiet = quiet
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="store-watch", daemon=True)
        #: Whether it answered the last time; None: it was not asked yet.
        self.is_reachable: bool | None = None
        #: Why it did not.
        self.reason = ""

    def require(self) -> None:
        """Raises StoreError where the store cannot be reached."""
        self._look()
        if not self.is_reachable:
            where = self._store.describe()
            raise StoreError(
                f"the store at {where} cannot be reached, and store_required is on: {self.reason}"
            )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def page(self) -> dict[str, Any]:
        """For /readyz."""
        return {"reachable": self.is_reachable, "reason": self.reason or None}

    def _watch(self) -> None:
        while not self._stop.is_set():
            before = self.is_reachable
            self._look()
            if self._stop.is_set():
                return
            where = self._store.describe()
            if not self.is_reachable and before is not False:
                tell = log.debug if self._quiet else log.warning
                tell("the store cannot be reached", store=where, reason=self.reason)
            elif self.is_reachable and before is False:
                tell = log.debug if self._quiet else log.info
                tell("the store can be reached again", store=where)
            self._stop.wait(INTERVAL_S)

    def _look(self) -> None:
        try:
            reason = self._store.why_unreachable()
        except StoreError as error:  # It is not configured any more: the service stops.
            reason = str(error)
        # First the reason: whoever reads both then has the one that belongs to it.
        self.reason = redact_text(reason or "")
        self.is_reachable = reason is None
