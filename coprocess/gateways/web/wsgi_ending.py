"""Bodies whose closing is told, as the request ends with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from coprocess.gateways.web.wsgi_messages import Environ

#: Told once that a body is closed, with what failed, if anything did.
End = Callable[[BaseException | None], None]


def ended_with(chunks: Iterable[bytes], end: End, environ: Environ) -> Iterable[bytes]:
    """`chunks` such that `end` is called when they are closed."""
    wrapper = environ.get("wsgi.file_wrapper")
    if isinstance(wrapper, type) and isinstance(chunks, wrapper):
        # Servers know their own by its class, and send the file in a way of their own.
        ending = _Ending(chunks, end)
        try:
            chunks.close = ending.close  # type: ignore[attr-defined]  # as servers call it
        except AttributeError:
            return ending
        return chunks
    return _SizedEnding(chunks, end) if isinstance(chunks, (list, tuple)) else _Ending(chunks, end)


class _Ending:
    """A body whose closing is told."""

    def __init__(self, chunks: Iterable[bytes], end: End) -> None:
        self._chunks = chunks
        self._close = getattr(chunks, "close", None)
        self._end: End | None = end
        self._error: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._chunks
        except GeneratorExit:  # Closed half-way: by a server whose client has gone.
            raise
        except BaseException as error:
            self._error = error
            raise

    def close(self) -> None:
        try:
            if self._close is not None:
                self._close()
        except BaseException as error:
            self._error = self._error or error
            raise
        finally:
            end, self._end = self._end, None
            if end is not None:
                end(self._error)


class _SizedEnding(_Ending):
    """Of one chunk, servers tell the length."""

    _chunks: list[bytes]

    def __len__(self) -> int:
        return len(self._chunks)
