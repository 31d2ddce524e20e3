"""Bodies that travel encoded: what each decoder gives, refuses and never makes."""

from __future__ import annotations

import gzip
import importlib
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from coprocess import BadBody
from coprocess.api import content_coding
from coprocess.api.content_coding import codings_of, decode

TEXT = b'{"name": "Anna"}' * 50


def raw_deflate(body: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(body) + stream.flush()


def library(*names: str) -> Any:
    """The first of these modules that is installed; the test is skipped where none is."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return pytest.skip(f"none of {', '.join(names)} is installed")


def brotli(body: bytes) -> bytes:
    compressed: bytes = library("brotli", "brotlicffi").compress(body)
    return compressed


def zstd(body: bytes) -> bytes:
    compressed: bytes = library("compression.zstd", "backports.zstd", "zstandard").compress(body)
    return compressed


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": raw_deflate,
    "br": brotli,
    "zstd": zstd,
    "identity": bytes,
}


@pytest.mark.parametrize("coding", ENCODERS)
def test_each_coding_is_decoded(coding: str) -> None:
    assert decode(ENCODERS[coding](TEXT), coding, "it") == TEXT
    assert decode(b"", coding, "it") == b""


def test_stacked_codings_are_decoded_from_the_last() -> None:
    assert codings_of(" x-gzip , identity,, DEFLATE ") == ["gzip", "deflate"]
    assert decode(zlib.compress(gzip.compress(TEXT)), "gzip, deflate", "it") == TEXT


def test_several_parts_and_padding_are_read() -> None:
    assert decode(gzip.compress(b"a") + gzip.compress(b"b") + b"\0" * 9, "gzip", "it") == b"ab"
    assert decode(zlib.compress(b"a") + b"\0", "deflate", "it") == b"a"
    assert decode(zstd(b"a") + zstd(b"b"), "zstd", "it") == b"ab"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize("broken", ["cut", "flipped", "other", "one byte"])
def test_broken_bytes_are_an_error(coding: str, broken: str) -> None:
    good = ENCODERS[coding](bytes(range(256)) * 9)
    middle = len(good) // 2
    body = {
        "cut": good[:-5],
        "flipped": good[:middle] + bytes([255 - byte for byte in good[middle:]]),
        "other": b"plain text",
        "one byte": good[:1],
    }[broken]
    with pytest.raises(BadBody, match=f"^it is not {coding}, as its Content-Encoding says: ") as bad:
        decode(body, coding, "it")
    assert bad.value.http_status == 400


@pytest.mark.parametrize("coding", ["gzip", "deflate", "Deflate", "br", "zstd"])
def test_a_bomb_is_never_inflated_beyond_the_limit(coding: str) -> None:
    bomb = ENCODERS[coding](bytes(32 * 2**20))
    decode(ENCODERS[coding](b"a"), coding, "it")  # What is imported for it does not count.
    tracemalloc.start()
    try:
        with pytest.raises(BadBody, match=r"^it inflates to more than 1000000 bytes") as bad:
            decode(bomb, coding, "it", limit=1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()
    assert bad.value.http_status == 413
    assert decode(ENCODERS[coding](bytes(1000)), coding, "it", limit=1000) == bytes(1000)
    with pytest.raises(BadBody, match="more than 999 bytes"):
        decode(ENCODERS[coding](bytes(1000)), coding, "it", limit=999)


def test_a_bomb_in_a_bomb_ends_at_the_limit() -> None:
    with pytest.raises(BadBody, match="inflates to more than"):
        decode(gzip.compress(gzip.compress(bytes(32 * 2**20))), "gzip, gzip", "it")


def test_many_small_parts_have_an_end() -> None:
    with pytest.raises(BadBody, match="more than 1000 parts"):
        decode(gzip.compress(b"") * 1001, "gzip", "it")


@pytest.mark.parametrize("coding", ["compress", "x-rot13", "aws-chunked", "*"])
def test_an_unknown_coding_is_named(coding: str) -> None:
    with pytest.raises(BadBody, match="which is not known: expected one of gzip, deflate, br, zstd") as bad:
        decode(b"x", f"gzip, {coding}", "the request's body")
    assert bad.value.http_status == 415
    assert repr(coding) in str(bad.value)


def test_a_coding_whose_library_is_absent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_coding, "_found", {"br": None, "zstd": None})
    with pytest.raises(BadBody, match=r"no library for it is installed: expected brotli 1\.2") as bad:
        decode(b"x", "br", "it")
    assert bad.value.http_status == 415
    with pytest.raises(BadBody, match=r"expected Python 3\.14, or the package zstandard"):
        decode(b"x", "zstd", "it")


def test_too_many_codings_are_refused() -> None:
    with pytest.raises(BadBody, match="names 5 content codings: expected at most 4"):
        decode(b"x", "gzip," * 5, "it")
