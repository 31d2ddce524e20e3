"""Who wants to know that a call is over before it is answered, for engines that number their calls."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

_REMEMBERED = 1024


class _All(dict[int, None]):
    """Every call is in it."""

    def __contains__(self, call_id: object) -> bool:
        return True


class Cancellations(dict[int, Callable[[], None]]):
    """By call id, what to call back; an engine takes a call out when it answers it.

    A dict itself, so that answering costs no more than a look into it.
    """

    def __init__(self) -> None:
        super().__init__()
        #: The last calls that were over: somebody may want to know later.
        self.over: dict[int, None] = {}
        # To find its first key, a dict goes through those that were deleted.
        self._in_order: deque[int] = deque()
        self._lock = threading.Lock()

    def when_over(self, call_id: int, callback: Callable[[], None]) -> None:
        """Call back once, from the thread that hears of it; now, where the call was over before."""
        self[call_id] = callback
        # After it is in, so that of two threads, at least one sees what the other did.
        if call_id in self.over and self.pop(call_id, None) is not None:
            callback()

    def is_over(self, call_id: int) -> None:
        """Call back whoever wants to know."""
        with self._lock:  # Several threads hear of such ends at one time.
            if call_id not in self.over:
                self.over[call_id] = None
                self._in_order.append(call_id)
                if len(self._in_order) > _REMEMBERED:
                    del self.over[self._in_order.popleft()]
        if (callback := self.pop(call_id, None)) is not None:
            callback()

    def all_are_over(self) -> None:
        """As `is_over`, for each call there is, and will be."""
        with self._lock:
            self.over = _All()
        for call_id in list(self):
            self.is_over(call_id)
