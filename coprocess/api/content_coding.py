"""Bodies that travel encoded (`Content-Encoding: gzip`), decoded within a limit.

A few bytes may inflate to many gigabytes. So each decoder is asked for one byte more than is allowed, and
nothing beyond is ever made.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from typing import Any

from coprocess.errors import BadBody

#: What a body may inflate to.
MAX_DECODED_BYTES = 16 * 2**20
_MOST_CODINGS = 4
_MOST_MEMBERS = 1000
_PIECE_BYTES = 65_536
# RFC 9659: no sender of the coding zstd uses a larger window.
_ZSTD_WINDOW_LOG = 23
# zstandard has no bound of its own. A block of at least four bytes gives at most 128 KiB.
_ZSTD_PIECE_BYTES = 64

_ALIASES = {"x-gzip": "gzip", "identity": ""}


class _Broken(Exception):
    """The text says what is wrong with the bytes."""


class _TooLarge(Exception):
    pass


def codings_of(header: str) -> list[str]:
    """The codings that a Content-Encoding names, in the order in which they were applied."""
    names = (name.strip().lower() for name in header.split(","))
    return [coding for name in names if (coding := _ALIASES.get(name, name))]


def decode(body: bytes, header: str, what: str, limit: int = MAX_DECODED_BYTES) -> bytes:
    """`body` without the codings of its Content-Encoding. Empty stays empty.

    Raises BadBody, which begins with `what`: for a coding that is not known, for bytes that are not what the
    header says, and where they inflate to more than `limit`.
    """
    if not body or not (codings := codings_of(header)):
        return body
    if len(codings) > _MOST_CODINGS:
        raise BadBody(f"{what} names {len(codings)} content codings: expected at most {_MOST_CODINGS}")
    decoders = [_decoder(coding, what) for coding in codings]
    for coding, decoder in zip(reversed(codings), reversed(decoders), strict=True):
        try:
            body = decoder(body, limit)
        except _Broken as error:
            raise BadBody(f"{what} is not {coding}, as its Content-Encoding says: {error}") from None
        except _TooLarge:
            raise BadBody(f"{what} inflates to more than {limit} bytes", http_status=413) from None
    return body


def _decoder(coding: str, what: str) -> Callable[[bytes, int], bytes]:
    decoder = _DECODERS.get(coding)
    if decoder is None:
        known = ", ".join(_DECODERS)
        raise BadBody(
            f"{what} has the content coding {coding!r}, which is not known: expected one of {known}",
            http_status=415,
        )
    if coding in _LIBRARIES and _library(coding) is None:
        raise BadBody(
            f"{what} has the content coding {coding}, and no library for it is installed: "
            f"expected {_LIBRARIES_IN_WORDS[coding]}",
            http_status=415,
        )
    return decoder


def _gunzip(body: bytes, limit: int) -> bytes:
    return _inflate(body, limit, 31)


def _inflate_deflate(body: bytes, limit: int) -> bytes:
    try:
        return _inflate(body, limit, 15)
    except _Broken:
        # Some senders leave out the frame of zlib.
        return _inflate(body, limit, -15)


def _inflate(body: bytes, limit: int, window_bits: int) -> bytes:
    pieces: list[bytes] = []
    at, room, members = 0, limit, 0
    stream: Any = None
    try:
        while at < len(body):
            if stream is None or stream.eof:
                # What follows the end is padding, but where gzip has several parts.
                if stream is not None and (window_bits != 31 or body[at] == 0):
                    break
                members += 1
                if members > _MOST_MEMBERS:
                    raise _Broken(f"it has more than {_MOST_MEMBERS} parts")
                stream = zlib.decompressobj(window_bits)
            piece = body[at : at + _PIECE_BYTES]
            output = stream.decompress(piece, room + 1)
            room -= len(output)
            if room < 0:
                raise _TooLarge
            pieces.append(output)
            at += len(piece) - len(stream.unused_data)
    except zlib.error as error:
        raise _Broken(str(error)) from None
    if not stream.eof:
        raise _Broken("it ends early")
    return b"".join(pieces)


def _decode_brotli(body: bytes, limit: int) -> bytes:
    library = _library("br")
    stream = library.Decompressor()
    pieces: list[bytes] = []
    room, rest = limit, body
    try:
        while not stream.is_finished():
            output = stream.process(rest, output_buffer_limit=room + 1)
            room -= len(output)
            if room < 0:
                raise _TooLarge
            pieces.append(output)
            if not rest and not output:
                raise _Broken("it ends early")
            rest = b""
    except library.error as error:
        raise _Broken(str(error)) from None
    return b"".join(pieces)


def _decode_zstd(body: bytes, limit: int) -> bytes:
    library = _library("zstd")
    pieces: list[bytes] = []
    at, room, frames = 0, limit, 0
    stream: Any = None
    has_limit = hasattr(library, "DecompressionParameter")
    size = _PIECE_BYTES if has_limit else _ZSTD_PIECE_BYTES
    try:
        while at < len(body):
            if stream is None or stream.eof:
                frames += 1
                if frames > _MOST_MEMBERS:
                    raise _Broken(f"it has more than {_MOST_MEMBERS} parts")
                stream = _zstd_stream(library, has_limit)
            piece = body[at : at + size]
            output = stream.decompress(piece, room + 1) if has_limit else stream.decompress(piece)
            room -= len(output)
            if room < 0:
                raise _TooLarge
            pieces.append(output)
            at += len(piece) - len(stream.unused_data)
    except library.ZstdError as error:
        raise _Broken(str(error)) from None
    if not stream.eof:
        raise _Broken("it ends early")
    return b"".join(pieces)


def _zstd_stream(library: Any, has_limit: bool) -> Any:
    if has_limit:
        options = {library.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
        return library.ZstdDecompressor(options=options)
    return library.ZstdDecompressor(max_window_size=2**_ZSTD_WINDOW_LOG).decompressobj()


_DECODERS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _gunzip,
    "deflate": _inflate_deflate,
    "br": _decode_brotli,
    "zstd": _decode_zstd,
}

#: What is not in every Python: the modules that do, the best first.
_LIBRARIES = {
    "br": ("brotli", "brotlicffi"),
    "zstd": ("compression.zstd", "backports.zstd", "zstandard"),
}
_LIBRARIES_IN_WORDS = {"br": "brotli 1.2 or newer", "zstd": "Python 3.14, or the package zstandard"}
_found: dict[str, Any] = {}


def _library(coding: str) -> Any:
    """The module for `coding`; None where there is none that can be bounded."""
    if coding not in _found:
        _found[coding] = next(filter(None, map(_import, _LIBRARIES[coding])), None)
    return _found[coding]


def _import(name: str) -> Any:
    try:
        library = importlib.import_module(name)
    except ImportError:
        return None
    if name in _LIBRARIES["br"]:
        # Before 1.2 it cannot be told when to stop.
        stream: Any = library.Decompressor()
        if not hasattr(stream, "can_accept_more_data"):
            return None
    return library
