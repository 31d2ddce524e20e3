"""Events that Kong sends again and again in the same bytes, but for their ids: they are not read anew."""

from __future__ import annotations

from typing import Any, Final

from msgpack import unpackb

from coprocess.gateways.kong import wire

#: So many are known, and no longer ones.
MOST_KNOWN: Final = 256
LONGEST_KNOWN_BYTES: Final = 256


class KnownEvents(dict[bytes, Any]):
    """What events ask, by their bytes behind the id."""

    def learn(self, key: bytes, data: bytes) -> None:
        """Where `data` is an event, and nothing else, know what it asks by `key`, its end."""
        try:
            _, method, argument = wire.parts_of(unpackb(data))
        except (ValueError, TypeError, wire.FrameError):  # It came in pieces, or is odd.
            return
        if key and method == wire.HANDLE_EVENT and type(argument) is dict:
            if len(self) >= MOST_KNOWN:
                self.clear()
            self[key] = argument
