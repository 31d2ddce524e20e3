"""Frames, their layout (RFC 9113 §4.1, §6), and the codes in them (§6.5.2, §7)."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

#: What a client sends first (§3.4).
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

#: Length in two parts (24 bits), type, flags, stream identifier.
FRAME_HEADER = struct.Struct(">BHBBL")
FRAME_HEADER_BYTES: Final = 9
#: The same to be read: the length and, in the lowest byte, the type; flags, stream identifier.
FRAME_START = struct.Struct(">LBL")
#: The highest bit of a stream identifier and of an increment is reserved.
LOWER_31_BITS: Final = 0x7FFF_FFFF
MAX_WINDOW: Final = LOWER_31_BITS
MAX_STREAM_ID: Final = LOWER_31_BITS
#: Windows before any SETTINGS (§6.9.2).
FIRST_WINDOW: Final = 65_535
SMALLEST_MAX_FRAME: Final = 16_384
LARGEST_MAX_FRAME: Final = 16_777_215

# Types (§6). Each with its number: where this is compiled, that stands in its place.
DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

# Flags.
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20


class ErrorCode(IntEnum):
    """§7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class Setting(IntEnum):
    """§6.5.2."""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6


class Failure(Exception):
    """The peer broke a rule."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(f"{code.name}: {reason}")
        self.code = code
        self.reason = reason


class ConnectionFailure(Failure):
    """One that holds for the whole connection (§5.4.1)."""


class StreamFailure(Failure):
    """One that holds for a stream; the others go on (§5.4.2)."""


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    length = len(payload)
    return FRAME_HEADER.pack(length >> 16, length & 0xFFFF, kind, flags, stream_id) + payload


def settings(values: dict[Setting, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(key, value) for key, value in values.items()))


def parse_settings(payload: bytes) -> list[tuple[int, int]]:
    """In their order, as each counts in turn (§6.5.3)."""
    return list(_SETTING.iter_unpack(payload))


def rst_stream(stream_id: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big"))


def goaway(last_stream_id: int, code: int, reason: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, _GOAWAY.pack(last_stream_id, code) + reason.encode()[:_MAX_REASON_BYTES])


def strip_padding(payload: bytes, other_bytes: int = 0) -> bytes:
    """Of a frame with PADDED (§6.1, §6.2). `other_bytes`: of the fields before what is padded."""
    if len(payload) <= other_bytes:
        raise ConnectionFailure(ErrorCode.FRAME_SIZE_ERROR, "a padded frame too short for its fields")
    if payload[0] >= len(payload) - other_bytes:
        raise ConnectionFailure(ErrorCode.PROTOCOL_ERROR, "padding as long as its frame, or longer")
    return payload[1 : len(payload) - payload[0]]


SETTINGS_ACK = frame(SETTINGS, ACK, 0)

_SETTING = struct.Struct(">HL")
_GOAWAY = struct.Struct(">LL")
_MAX_REASON_BYTES: Final = 200
