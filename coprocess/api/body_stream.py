"""A body in pieces, as a handler reads and writes it while it passes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator


class BodyCut(ConnectionError):
    """The rest of a body does not come, for no fault of its handler's, and nobody waits for it."""


class BodyStream(AsyncIterator[bytes], Iterator[bytes]):
    """What `request.stream()` gives, and `response.stream()`: for `for`, or `async for` in an async handler.

    A piece goes on when the next one is asked for. What came when is the other side's choice: pieces have no
    meaning of their own. Where the body ends early, as its sender left, asking raises ConnectionError.
    """

    def write(self, data: bytes) -> None:
        """Send `data` on, after what was written, where the stream was asked for with `replace=True`.

        Raises RuntimeError without it, TypeError for what is no bytes.
        """
        raise NotImplementedError

    def __iter__(self) -> BodyStream:
        return self

    def __aiter__(self) -> BodyStream:
        return self
