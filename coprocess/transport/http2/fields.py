"""Field sections: HPACK (RFC 7541), and what makes a request malformed (RFC 9113 §8.2, §8.3)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from hpack import Decoder, HPACKError, OversizedHeaderListError
from hpack.table import HeaderTable

from coprocess.errors import raise_from
from coprocess.transport.http2.frames import ConnectionFailure, ErrorCode, StreamFailure

Field = tuple[bytes, bytes]


class RequestFields:
    """The field section that opened a stream; shared by all calls whose block has the same bytes."""

    __slots__ = ("content_length", "fields", "is_too_large", "request")

    def __init__(self, fields: list[Field], content_length: int | None, is_too_large: bool) -> None:
        #: Pseudo-header fields first.
        self.fields = fields
        self.content_length = content_length
        #: Over the limit that was announced (§6.5.2), but not so much that reading it would do harm.
        self.is_too_large = is_too_large
        #: What the layer above made of it.
        self.request: Any = None


class FieldDecoder:
    """Decodes the blocks of one connection, in their order.

    As long as the dynamic table does not change, a block means the same each time; so those seen since then
    need no decoding: most clients send the same block for each call. Where something in it differs from call
    to call, as a deadline, their table would change all the time: so a peer is soon told to have none.
    """

    def __init__(self, max_list_bytes: int, count_effort: Callable[[int], None]) -> None:
        """`count_effort` is told what was decoded, in fields, and bytes that take as long."""
        self._max_list_bytes = max_list_bytes
        self._count_effort = count_effort
        self._decoder = Decoder(max_header_list_size=max_block_bytes(max_list_bytes))
        self._decoder.header_table = self.table = _WatchedTable()
        #: Of the block that `decode_in_steps` has decoded, and nobody has asked for.
        self._decoded: list[Field] | None = None
        #: Of the last block, as SETTINGS_MAX_HEADER_LIST_SIZE counts them (RFC 9113 §6.5.2).
        self._list_bytes = 0
        #: Whether the last block left the table as it was.
        self._is_same_again = False
        #: What `request` gave for blocks that mean the same as then. For whoever looks before it asks.
        self.seen: dict[bytes, RequestFields] = {}

    def forbid_table(self) -> None:
        """The peer has acknowledged our SETTINGS_HEADER_TABLE_SIZE of 0."""
        self._decoder.max_allowed_table_size = 0
        self.seen.clear()  # The next block must say that the table is gone: it is looked at.

    def request(self, block: bytes) -> RequestFields:
        """Raises ConnectionFailure where it cannot be decoded, StreamFailure where it is malformed."""
        seen = self.seen.get(block)
        if seen is not None:
            return seen
        fields = self._decode(block)
        request = RequestFields(fields, check_request(fields), self._list_bytes > self._max_list_bytes)
        if self._is_same_again and len(block) <= _MAX_SEEN_BYTES:
            if len(self.seen) >= _MAX_SEEN:
                del self.seen[next(iter(self.seen))]
            self.seen[block] = request
        return request

    def trailers(self, block: bytes) -> None:
        """Raises as `request`. gRPC's requests have no trailers that mean something."""
        for name, value in self._decode(block):
            if name.startswith(b":"):
                raise _malformed("a pseudo-header field in trailers")
            _check_field(name, value)

    def skip(self, block: bytes) -> None:
        """Of a stream that is not looked at: the table changes all the same."""
        if block not in self.seen:
            self._decode(block)

    def is_long(self, block: bytes) -> bool:
        """Whether it is to be decoded by `decode_in_steps` first."""
        return len(block) > _STEP_BYTES and block not in self.seen

    def decode_in_steps(self, block: bytes) -> Iterator[None]:
        """Decode it piece by piece, before anything is asked for it. Raises ConnectionFailure."""
        if _HAS_MANY_UPDATES(block):
            raise ConnectionFailure(ErrorCode.COMPRESSION_ERROR, "many changes of the table's size")
        fields: list[Field] = []
        self._list_bytes, self._is_same_again = 0, True
        for piece in _pieces(block):
            fields += self._decode_piece(piece)
            yield None
        self._decoded = fields

    def _decode(self, block: bytes) -> list[Field]:
        if self._decoded is None:
            for _ in self.decode_in_steps(block):
                pass
        fields, self._decoded = self._decoded or [], None
        if not self._is_same_again:
            self.seen.clear()
        return fields

    def _decode_piece(self, piece: bytes) -> list[Field]:
        table = self.table
        before = table.maxsize, len(table.dynamic_entries)
        table.has_grown = False
        try:
            fields = [(field[0], field[1]) for field in self._decoder.decode(piece, raw=True)]
            self._list_bytes += sum(len(name) + len(value) + _FIELD_OVERHEAD for name, value in fields)
            if self._list_bytes > self._decoder.max_header_list_size:
                raise OversizedHeaderListError
        except OversizedHeaderListError:
            raise_from(ConnectionFailure(ErrorCode.ENHANCE_YOUR_CALM, "the header list is too large"), None)
        except (HPACKError, IndexError) as error:
            # Not its text: that shows where in memory the block is, and the peer reads it.
            raise_from(
                ConnectionFailure(
                    ErrorCode.COMPRESSION_ERROR, f"a field block that is no HPACK: {type(error).__name__}"
                ),
                None,
            )
        if table.has_grown or before != (table.maxsize, len(table.dynamic_entries)):
            self._is_same_again = False
        self._count_effort(len(fields) + len(piece) // _BYTES_PER_STEP)
        return fields


def _pieces(block: bytes) -> Iterator[bytes]:
    """The block, cut where fields end (RFC 7541 §6). What is no field is left to who decodes it."""
    start = at = 0
    end = len(block)
    try:
        # No look at what is one piece anyway: nearly every block is.
        while at < end and end - start > _STEP_BYTES:
            first = block[at]
            if first & 0x80:  # Indexed.
                at = _after_integer(block, at, 0x7F)
            elif first & 0xE0 == _UPDATE:
                at = _after_integer(block, at, 0x1F)
            else:  # A literal; 0: with its name.
                name = 0x3F if first & 0x40 else 0x0F
                at = _after_integer(block, at, name) if first & name else _after_string(block, at + 1)
                at = _after_string(block, at)
            # An update may not follow a field: whoever decodes it sees what it follows.
            if at - start >= _STEP_BYTES and at < end and block[at] & 0xE0 != _UPDATE:
                yield block[start:at]
                start = at
    except IndexError:  # It ends within an integer.
        pass
    yield block[start:]


def _after_integer(block: bytes, at: int, prefix: int) -> int:
    """Where the integer ends that begins at `at`, within the bits of `prefix` (RFC 7541 §5.1)."""
    if block[at] & prefix != prefix:
        return at + 1
    at += 1
    while block[at] & 0x80:
        at += 1
    return at + 1


def _after_string(block: bytes, at: int) -> int:
    """Where the string ends whose length begins at `at` (RFC 7541 §5.2); len(block) at most."""
    length = block[at] & 0x7F
    at += 1
    if length == 0x7F:
        shift = 0
        while True:
            byte = block[at]
            at += 1
            length += (byte & 0x7F) << shift
            if byte < 0x80 or shift > _LONGEST_SHIFT:
                break
            shift += 7
    return min(at + length, len(block))


class _WatchedTable(HeaderTable):
    """A dynamic table that tells whether a block added to it."""

    has_grown = False
    #: Whether the peer has put something into it, ever.
    is_used = False

    def add(self, name: bytes, value: bytes) -> None:
        if self.maxsize > 0:
            self.has_grown = self.is_used = True
        super().add(name, value)


def max_block_bytes(max_list_bytes: int) -> int:
    """Up to here a block is decoded, so that only its call fails; beyond, the connection does.

    That decoding takes time: up to 9 ms. It is done in steps, but a string of Huffman's is one, however long.
    """
    return max(2 * max_list_bytes, 32_768)


def check_request(fields: list[Field]) -> int | None:
    """The content-length of a request. Raises StreamFailure where it is malformed."""
    pseudo: dict[bytes, bytes] = {}
    hosts: list[bytes] = []
    content_length = None
    is_regular = False
    for name, value in fields:
        if name[:1] == b":":
            if is_regular:
                raise _malformed("a pseudo-header field after a regular one")
            if name in pseudo:
                raise _malformed("a pseudo-header field twice")
            if name not in _PSEUDO:
                raise _malformed("an unknown pseudo-header field")
            _check_value(value)
            pseudo[name] = value
            continue
        is_regular = True
        _check_field(name, value)
        if name == b"content-length":
            if not value.isdigit() or len(value) > _MAX_DIGITS or content_length not in (None, int(value)):
                raise _malformed("content-length is not one number")
            content_length = int(value)
        elif name == b"host":
            hosts.append(value)
    if hosts:
        _check_hosts(hosts, pseudo)
    if pseudo.get(b":method") == b"CONNECT":  # §8.5
        if pseudo.keys() != {b":method", b":authority"}:
            raise _malformed("CONNECT has a method and an authority")
    elif not (pseudo.get(b":method") and pseudo.get(b":scheme") and pseudo.get(b":path")):
        raise _malformed("a request has one method, scheme and path")
    return content_length


def _check_hosts(hosts: list[bytes], pseudo: dict[bytes, bytes]) -> None:
    """§8.3.1: all name one entity, that of :authority. Who looks at one of them sees what others do."""
    default_port = _DEFAULT_PORTS.get(pseudo.get(b":scheme", b""), b":")
    named = {
        # As RFC 3986 §6.2 compares them: by case, and the scheme's port may be left out.
        each.lower().removesuffix(default_port).removesuffix(b":")
        for each in (*hosts, pseudo.get(b":authority", hosts[0]))
    }
    if len(named) > 1:
        raise _malformed("host and :authority are not the same")


def _check_field(name: bytes, value: bytes) -> None:
    if not _IS_NAME(name):
        raise _malformed("a field name with a character that may not be in it")
    _check_value(value)
    if name in _OF_CONNECTIONS or (name == b"te" and value.strip().lower() != b"trailers"):
        raise _malformed("a connection-specific field")


def _check_value(value: bytes) -> None:
    if _IS_NO_VALUE(value):
        raise _malformed("a field value with a character that may not be there")


def _malformed(reason: str) -> StreamFailure:
    return StreamFailure(ErrorCode.PROTOCOL_ERROR, f"malformed: {reason}")


_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path"))
_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}
_OF_CONNECTIONS = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
# §8.2.1: visible ASCII but for upper case letters and the colon.
_IS_NAME = re.compile(rb"[!-9;-@\[-~]+").fullmatch
_IS_NO_VALUE = re.compile(rb"[\0\r\n]|\A[ \t]|[ \t]\Z").search
# RFC 7541 §4.2: two at most, of which each takes its time.
_HAS_MANY_UPDATES = re.compile(rb"(?:[\x20-\x3e]|\x3f[\x80-\xff]*[\0-\x7f]){3}").match
#: A dynamic table size update (RFC 7541 §6.3), by its first three bits.
_UPDATE = 0x20
#: As one piece takes so long, be it many fields or one string that is Huffman's, others wait for no more.
_STEP_BYTES = 1024
#: Beyond any length that a block has.
_LONGEST_SHIFT = 21
_MAX_DIGITS = 18
#: Of a Huffman string, which are decoded in the time that a field takes, or twice that.
_BYTES_PER_STEP = 16
_FIELD_OVERHEAD = 32
# Of 1 KiB each at most, with what was made of them: some 200 KiB for a connection.
_MAX_SEEN = 64
_MAX_SEEN_BYTES = 1024
