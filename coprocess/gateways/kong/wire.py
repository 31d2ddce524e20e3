"""Kong's plugin protocol `MsgPack:1`, without I/O: values from bytes, messages to bytes, for both sides.

A stream carries one msgpack value after the other: requests `[0, id, method, [argument]]`, answers
`[1, id, error, result]` and notifications `[2, method, value]`. Text from Kong has any bytes in it: what is
no UTF-8 is kept as surrogates (PEP 383), and goes back as the bytes that came.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgpack

from coprocess.bounded import form_of, repr_of
from coprocess.errors import BadMessage

REQUEST, ANSWER, NOTIFICATION = 0, 1, 2

START_INSTANCE = "plugin.StartInstance"
CLOSE_INSTANCE = "plugin.CloseInstance"
HANDLE_EVENT = "plugin.HandleEvent"
STEP = "plugin.Step"
STEP_ERROR = "plugin.StepError"
#: Kong names the step by what the call gives: all of these are one, as is any other that begins so.
STEPS = frozenset(
    STEP + kind
    for kind in ("", "MultiMap", "Consumer", "Credential", "Route", "Service", "MemoryStats", "Error")
)
_METHODS = STEPS | {START_INSTANCE, CLOSE_INSTANCE, HANDLE_EVENT}
SERVER_PID = "serverPid"
#: What ends an event, in the place of a call.
RETURN = "ret"

DEFAULT_MAX_FRAME_BYTES = 64 * 2**20
#: Of one list or map: its room is made when its head comes, before what is in it.
_MOST_ITEMS = 2**20
#: To begin with: what a connection packs into, and what a value that comes in pieces is read into; the larger
#: for one whose first piece is not short.
_ROOM_BYTES, _LARGE_ROOM_BYTES = 2**14, 2**20
_LARGE_BYTES = 2**12
_TEXT = "surrogateescape"


class FrameError(BadMessage):
    """What came is no message of the protocol. `message_id` is its number, where it has one."""

    def __init__(self, text: str, message_id: int | None = None) -> None:
        super().__init__(text)
        self.message_id = message_id


def no_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"an extension type ({code})")


_READING: Any = {
    "raw": False,
    "unicode_errors": _TEXT,
    "strict_map_key": False,
    "ext_hook": no_extension,
}


class Reader:
    """The values of one connection's stream, whatever pieces it comes in. After an error it is of no use."""

    __slots__ = ("_came", "_max_frame_bytes", "_unpacker")

    def __init__(self, max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> None:
        self._max_frame_bytes = max_frame_bytes
        #: Made for what comes in more than one piece, and kept while some of it is missing.
        self._unpacker: Any = None
        self._came = 0

    @property
    def is_within(self) -> bool:
        """Whether a part of a value is there, and the rest is not."""
        return self._unpacker is not None

    def feed(self, data: bytes) -> list[Any]:
        """The values that `data` completes. Raises FrameError where what came is no msgpack, or too long."""
        if self._unpacker is None:
            try:
                return [msgpack.unpackb(data, **_READING)]
            except Exception:  # noqa: BLE001 - the unpacker finds out: less than a value, more, or none
                self._begin(data)
        return self._feed(data)

    def next_of(self, data: bytes, more: deque[Any]) -> Any:
        """The first message that `data` completes, None where there is none yet; `more` takes the others.

        Raises as `feed`, and for a nil, which is no message.
        """
        if self._unpacker is None:
            self._begin(data)
        values = self._feed(data)
        if None in values:
            raise FrameError("nil is no message")
        more.extend(values[1:])
        return values[0] if values else None

    def _begin(self, data: bytes) -> None:
        limit = self._max_frame_bytes
        self._unpacker = msgpack.Unpacker(
            **_READING,
            max_buffer_size=limit,
            # The room that it begins with. To grow takes longer than to read a large body; and a megabyte
            # for each few bytes of a stranger's is much.
            read_size=min(_ROOM_BYTES if len(data) < _LARGE_BYTES else _LARGE_ROOM_BYTES, limit),
            max_array_len=min(_MOST_ITEMS, limit),
            max_map_len=min(_MOST_ITEMS, limit),
        )
        self._came = 0

    def _feed(self, data: bytes) -> list[Any]:
        unpacker, values, values_end = self._unpacker, [], -1
        self._came += len(data)
        try:
            unpacker.feed(data)
            for value in unpacker:
                values.append(value)
                # Asked for here: when it has no more, it tells of the part of a value, too.
                values_end = unpacker.tell()
        except msgpack.BufferFull:
            raise FrameError(f"a message is larger than the limit of {self._max_frame_bytes} bytes") from None
        except Exception as error:  # noqa: BLE001 - whatever the bytes make it raise: they are a stranger's
            text = str(error) or type(error).__name__
            raise FrameError(f"not msgpack, or beyond what a message may be: {text}") from None
        if values_end == self._came:
            self._unpacker = None
        return values


class Request(NamedTuple):
    """What Kong asks of the plugin server. `argument` is the one that each method takes."""

    id: int
    method: str
    argument: Any


@dataclass(frozen=True, slots=True)
class Answer:
    """What the plugin server answers. `error` is None where there is none."""

    id: Any
    error: Any
    result: Any


@dataclass(frozen=True, slots=True)
class Notification:
    method: str
    value: Any


def request_of(value: Any) -> Request:
    """The request that `value` is, as the server reads it. Raises FrameError."""
    return Request(*parts_of(value))


def parts_of(value: Any) -> tuple[int, str, Any]:
    """As `request_of`, its parts alone: for what comes by the thousand."""
    try:
        kind, message_id, method, arguments = value
        (argument,) = arguments
    except (TypeError, ValueError):
        raise _no_request(value) from None
    if (
        kind == REQUEST
        and type(message_id) is type(kind) is int
        and type(method) is str
        and type(arguments) is type(value) is list
    ):
        return message_id, method, argument
    raise _no_request(value)


#: By what a request begins with, where its id ends.
ID_ENDS: Final = {
    **{bytes((0x94, 0, fixed)): 3 for fixed in range(0x80)},
    b"\x94\x00\xcc": 4,
    b"\x94\x00\xcd": 5,
    b"\x94\x00\xce": 7,
}
#: Such a step between its id and what answers of its event end with, where the call gave nothing.
STEP_OF_NOTHING: Final = b"\xabplugin.Step\x91\x81"
#: No other step is as short.
STEP_OF_NOTHING_BYTES: Final = 7 + len(STEP_OF_NOTHING) + 13


def _no_request(value: Any) -> FrameError:
    if not isinstance(value, list) or len(value) != 4:
        return FrameError(f"not a request: {shown(value)}. Expected: [0, id, method, [argument]]")
    kind, message_id, method, arguments = value
    if type(message_id) is not int:
        return FrameError(f"not the id of a request: {shown(message_id)}. Expected: an integer")
    if type(kind) is not int or kind != REQUEST:
        return FrameError(f"not a request: its type is {shown(kind)}. Expected: {REQUEST}", message_id)
    if not isinstance(method, str):
        return FrameError(f"not the method of a request: {shown(method)}. Expected: text", message_id)
    named = repr_of(method, 100) if method in _METHODS else shown(method)
    return FrameError(f"{named} came with {shown(arguments)}. Expected: one argument", message_id)


def message_of(value: Any) -> Answer | Notification:
    """The message that `value` is, as Kong reads it. Raises FrameError."""
    if isinstance(value, list):
        if len(value) == 3 and value[0] == NOTIFICATION:
            return Notification(value[1], value[2])
        if len(value) >= 3 and value[0] == ANSWER:
            return Answer(value[1], value[2], value[3] if len(value) > 3 else None)
    raise FrameError(f"neither an answer nor a notification: {shown(value)}")


def shown(value: Any) -> str:
    """What errors tell of a value that came: others may see it, and a consumer's secrets may be in it."""
    return str(value) if isinstance(value, int) and abs(value) < 2**64 else form_of(value)


def pack(value: Any) -> bytes:
    """`value` as a plugin server sends it. Raises TypeError, ValueError, OverflowError for what cannot be."""
    packed: bytes = msgpack.packb(value, unicode_errors=_TEXT)
    return packed


def pack_head(message_id: int) -> bytes:
    """What an answer begins with: that it is one, and its id."""
    if message_id >> 32:  # No number of 32 bits, as Kong's are.
        return b"\x94\x01" + pack(message_id)
    return PACK_HEAD(HEAD, message_id)


#: As `pack_head`, of `HEAD` and an id of 32 bits, in one call.
PACK_HEAD: Final = struct.Struct(">3sI").pack
HEAD: Final = b"\x94\x01\xce"


def pack_tail(event_id: int) -> bytes:
    """What an answer of an event ends with: the id that Kong echoes."""
    if event_id >> 32:  # After four thousand million events.
        return b"\xa7EventId" + pack(event_id)
    return PACK_TAIL(TAIL, event_id)


#: As `pack_tail`, of `TAIL` and an id of 32 bits, in one call.
PACK_TAIL: Final = struct.Struct(">9sI").pack
TAIL: Final = b"\xa7EventId\xce"


def packer() -> Callable[[Any], bytes]:
    """A `pack` for one thread at a time: it keeps its buffer, which is most of the work."""
    # Each connection has one, and Kong has hundreds; what packs a large value grows, and stays so.
    pack: Callable[[Any], bytes] = msgpack.Packer(unicode_errors=_TEXT, buf_size=_ROOM_BYTES).pack
    return pack


def pack_answer(message_id: int, result: Any, error: Any = None) -> bytes:
    return pack((ANSWER, message_id, error, result))


def pack_notification(method: str, value: Any) -> bytes:
    return pack((NOTIFICATION, method, value))


def pack_request(message_id: int, method: str, argument: Any) -> bytes:
    """A request in the bytes that Kong sends."""
    return pack_as_kong([REQUEST, message_id, method, [argument]])


def pack_as_kong(value: Any) -> bytes:
    """`value` in the bytes that Kong sends: text never as `str 8`, and bytes as `bin`."""
    if value is None or isinstance(value, bool | int | float):
        return pack(value)
    if isinstance(value, str):
        return _kong_text(value.encode(errors=_TEXT))
    if isinstance(value, bytes):
        return pack(value)
    if isinstance(value, dict):
        head = _head(len(value), 0x80, b"\xde", b"\xdf")
        return head + b"".join(pack_as_kong(key) + pack_as_kong(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return _head(len(value), 0x90, b"\xdc", b"\xdd") + b"".join(map(pack_as_kong, value))
    raise TypeError(f"Kong sends no {type(value).__name__}")


def _kong_text(data: bytes) -> bytes:
    size = len(data)
    return (bytes([0xA0 | size]) if size < 32 else _head(size, 0xA0, b"\xda", b"\xdb")) + data


def _head(size: int, fixed: int, code_16: bytes, code_32: bytes) -> bytes:
    if size < 16:
        return bytes([fixed | size])
    return code_16 + struct.pack(">H", size) if size < 2**16 else code_32 + struct.pack(">I", size)
