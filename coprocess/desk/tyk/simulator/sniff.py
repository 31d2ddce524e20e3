"""The media type that Go's HTTP server guesses from a body which names none (WHATWG MIME sniffing)."""

from __future__ import annotations

_HTML = (
    b"<!DOCTYPE HTML",
    b"<HTML",
    b"<HEAD",
    b"<SCRIPT",
    b"<IFRAME",
    b"<H1",
    b"<DIV",
    b"<FONT",
    b"<TABLE",
    b"<A",
    b"<STYLE",
    b"<TITLE",
    b"<B",
    b"<BODY",
    b"<BR",
    b"<P",
    b"<!--",
)
_EXACT = (
    (b"%PDF-", "application/pdf"),
    (b"%!PS-Adobe-", "application/postscript"),
    (b"\xfe\xff", "text/plain; charset=utf-16be"),
    (b"\xff\xfe", "text/plain; charset=utf-16le"),
    (b"\xef\xbb\xbf", "text/plain; charset=utf-8"),
    (b"\x00\x00\x01\x00", "image/x-icon"),
    (b"\x00\x00\x02\x00", "image/x-icon"),
    (b"BM", "image/bmp"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"ID3", "audio/mpeg"),
    (b"OggS\x00", "application/ogg"),
    (b"MThd\x00\x00\x00\x06", "audio/midi"),
    (b"\x1aE\xdf\xa3", "video/webm"),
    (b"\x00\x01\x00\x00", "font/ttf"),
    (b"OTTO", "font/otf"),
    (b"ttcf", "font/collection"),
    (b"wOFF", "font/woff"),
    (b"wOF2", "font/woff2"),
    (b"\x1f\x8b\x08", "application/x-gzip"),
    (b"PK\x03\x04", "application/zip"),
    (b"Rar!\x1a\x07\x00", "application/x-rar-compressed"),
    (b"Rar!\x1a\x07\x01\x00", "application/x-rar-compressed"),
    (b"\x00asm", "application/wasm"),
)
_RIFF = ((b"WEBPVP", "image/webp"), (b"AVI ", "video/avi"), (b"WAVE", "audio/wave"))
_BINARY = frozenset((*range(0x09), 0x0B, *range(0x0E, 0x1B), *range(0x1C, 0x20)))


def detect_content_type(body: bytes) -> str:
    """From the first 512 bytes, as Go's `DetectContentType`."""
    data = body[:512]
    text = data.lstrip(b"\t\n\x0c\r ")
    for tag in _HTML:
        # A tag counts where a space or `>` ends it; a comment counts at once.
        if text[: len(tag)].upper() == tag and (
            tag == b"<!--" or text[len(tag) : len(tag) + 1] in (b" ", b">")
        ):
            return "text/html; charset=utf-8"
    if text.startswith(b"<?xml"):
        return "text/xml; charset=utf-8"
    for start, kind in _EXACT:
        if data.startswith(start):
            return kind
    for mark, kind in _RIFF:
        if data.startswith(b"RIFF") and data[8:].startswith(mark):
            return kind
    if data.startswith(b"FORM") and data[8:12] == b"AIFF":
        return "audio/aiff"
    if len(data) >= 12 and data[4:8] == b"ftyp" and b"mp4" in (data[8:11], data[16:19], data[20:23]):
        return "video/mp4"
    return "application/octet-stream" if _BINARY.intersection(text) else "text/plain; charset=utf-8"
