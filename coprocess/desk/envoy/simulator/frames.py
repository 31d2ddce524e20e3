"""WebSocket frames in a run of bytes."""

from __future__ import annotations


def split_frames(data: bytes) -> list[bytes]:
    """Unmasked or masked; what is no whole frame comes as it is, last."""
    frames = []
    while data:
        size = _size(data)
        frames.append(data[:size])
        data = data[size:]
    return frames


def _size(data: bytes) -> int:
    if len(data) < 2:
        return len(data)
    length, start = data[1] & 0x7F, 2
    if length == 126:
        length, start = int.from_bytes(data[2:4], "big"), 4
    elif length == 127:
        length, start = int.from_bytes(data[2:10], "big"), 10
    return start + length + (4 if data[1] & 0x80 else 0)
