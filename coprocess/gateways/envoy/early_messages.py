"""Messages of a stream that came before the one in front was answered: they are kept, within bounds."""

from __future__ import annotations

import threading
from collections import deque


class EarlyBytes:
    """What all streams of a gateway keep together."""

    __slots__ = ("_lock", "kept_bytes", "most_bytes")

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.kept_bytes = 0
        self._lock = threading.Lock()

    def add(self, size_bytes: int) -> bool:
        """False where that is more than may be kept. It is counted all the same, as long as it is there."""
        with self._lock:
            self.kept_bytes += size_bytes
            return size_bytes < 0 or self.kept_bytes <= self.most_bytes


class EarlyMessages:
    """Of one stream, the first first. Used with the stream's lock."""

    __slots__ = ("_all", "_bytes", "_messages")

    def __init__(self, all_streams: EarlyBytes) -> None:
        self._all = all_streams
        self._messages: deque[bytes] = deque()
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._messages)

    def put(self, message: bytes) -> bool:
        """False where that is more than may be kept."""
        self._messages.append(message)
        return self._count(len(message) + _MESSAGE_BYTES)

    def put_first(self, message: bytes) -> None:
        self._messages.appendleft(message)
        self._count(len(message) + _MESSAGE_BYTES)

    def take(self) -> bytes:
        """Raises IndexError where there is none."""
        message = self._messages.popleft()
        self._count(-len(message) - _MESSAGE_BYTES)
        return message

    def clear(self) -> None:
        self._messages.clear()
        self._count(-self._bytes)

    def _count(self, size_bytes: int) -> bool:
        self._bytes += size_bytes
        return self._all.add(size_bytes) and self._bytes <= MOST_BYTES


#: Of one stream.
MOST_BYTES = 16 << 20
#: Of all streams of a gateway.
MOST_BYTES_OF_ALL = 128 << 20
#: What Python needs for each, beside its bytes: else many empty ones would cost nothing.
_MESSAGE_BYTES = 64
