"""Requests and responses out of Envoy's header lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from coprocess.api.held import HeldHeaders, HeldRequest, HeldResponse
from coprocess.api.http import canonical_name
from coprocess.api.unread import NO_EDITS, UnreadHeaders, UnreadRequest
from coprocess.errors import BadMessage
from coprocess.gateways.envoy.latin1 import Latin1
from coprocess.gateways.envoy.wire import HeaderMap

if TYPE_CHECKING:
    from coprocess.gateways.envoy.wire import HeaderValue

BodySource = Callable[[], bytes]
#: What a value does not begin or end with.
BLANKS = b" \t"


class Fields(UnreadHeaders):
    """A header list. What is no pseudo-header field is read when somebody asks: many handlers only set."""

    __slots__ = ("_all",)

    #: Whether a handler may have read what is no header list.
    is_broken = False

    def __init__(self, values: Sequence[HeaderValue]) -> None:
        # As the base class does.
        self.replaced, self._set_now = NO_EDITS, None
        self._all = values

    def _text(self, field: HeaderValue) -> str:
        # It holds the bytes; `value` is there where an old Envoy was told to use it.
        # Blanks around it are no part of it. HTTP/2 brings them, and to HTTP/1 they are not there.
        value = (field.raw_value or field.value.encode()).strip(BLANKS)
        try:
            return value.decode()
        except UnicodeDecodeError:
            return Latin1(value, "latin-1")

    def first(self, count: int) -> Sequence[HeaderValue]:
        """So many fields, in their order: `:path` and its like come first."""
        return self._all[:count]

    def pseudo(self) -> dict[str, str]:
        """All pseudo-header fields, also those behind others. Of one that comes twice, the first counts."""
        found: dict[str, str] = {}
        for each in self._all:
            if each.key[:1] == ":":
                found.setdefault(each.key, self._text(each))
        return found

    def first_that_came(self, name: str) -> str | None:
        """The first value that came with this name, which is in lower case; None: none did."""
        return next((self._text(each) for each in self._all if each.key.lower() == name), None)

    def _came(self, name: str) -> list[str]:
        # Whoever reads one reads more, as a rule: then all of them are read.
        return self._values.getall(name, [])

    def _all_that_came(self) -> list[tuple[str, str]]:
        pairs: list[tuple[str, str]] = []
        for each in self._all:
            key = each.key
            if key[:1] != ":":
                pairs.append((canonical_name(key), self._text(each)))
            elif key == ":authority":
                pairs.append(("Host", self._text(each)))
        return pairs


class UnreadFields(Fields):
    """Those of a HeaderMap that nobody has read so far."""

    __slots__ = ("_raw", "_values_of_raw", "is_broken")

    is_broken: bool

    def __init__(self, raw: bytes, max_headers: int) -> None:
        """Raises BadMessage for more than `max_headers`."""
        # As the base class does.
        self.replaced = NO_EDITS
        self._set_now = None
        self.is_broken = False
        self._raw = raw
        self._values_of_raw: Sequence[HeaderValue] | None = None
        if len(raw) > _SMALLEST_HEADER_BYTES * max_headers:
            refuse_too_many(len(self._all), max_headers)

    @property
    def _all(self) -> Sequence[HeaderValue]:  # type: ignore[override]  # a slot there
        values = self._values_of_raw
        if values is None:
            try:
                values = self._values_of_raw = HeaderMap.FromString(self._raw).headers
            except DecodeError:
                # A handler may take that for a failure of its own, and fail open.
                self.is_broken = True
                raise BadMessage(NO_HEADERS) from None
        return values


NO_HEADERS = "headers that are no HeaderMap"


def refuse_too_many(count: int, max_headers: int) -> None:
    """Raises BadMessage where it is."""
    if count > max_headers:
        raise BadMessage(f"{count} headers: max_headers is {max_headers}")


class UnreadLine(UnreadRequest):
    """A request whose line is read from its headers, when somebody asks."""

    if not TYPE_CHECKING:
        __slots__ = ()

    def _pseudo(self, name: str) -> str | None:
        fields: Fields = self._headers  # type: ignore[assignment]  # as its maker sets it
        for each in fields.first(_PSEUDO_OF_REQUEST):
            if each.key == name:
                return fields._text(each)
        return fields.pseudo().get(name)

    @property
    def target(self) -> str:
        target = self._target
        if target is None:
            # CONNECT has no path.
            target = self._target = self._pseudo(":path") or ""
        return target

    def _path_that_came(self) -> str:
        return self.target.partition("?")[0]

    def _query_that_came(self) -> str:
        return self.target.partition("?")[2]

    def _scheme_that_came(self) -> str:
        scheme = self._pseudo(":scheme")
        return "http" if scheme is None else scheme


def content_length(fields: Fields) -> int | None:
    """As it came, whatever a handler has edited; None: no length came."""
    text = fields.first_that_came("content-length") or ""
    return int(text) if len(text) <= _LONGEST_LENGTH and text.isascii() and text.isdecimal() else None


def request_of(fields: Fields, body_source: BodySource) -> HeldRequest:
    """Raises BadMessage."""
    method = target = scheme = None
    try:
        # They come first, all or nearly all: then nothing else is looked at.
        for each in fields.first(_PSEUDO_OF_REQUEST):
            key = each.key
            if key == ":path":
                if target is None:
                    target = each.raw_value.decode() or each.value
            elif key == ":method":
                if method is None:
                    method = each.raw_value.decode() or each.value
            elif key == ":scheme" and scheme is None:
                scheme = each.raw_value.decode() or each.value
    except UnicodeDecodeError:
        target = None
    if method is None or target is None or scheme is None:
        pseudo = fields.pseudo()
        try:
            method = pseudo[":method"]
        except KeyError:
            raise BadMessage("request headers without :method") from None
        if ":path" not in pseudo and method != "CONNECT":
            # As `forward_rules` may hide it: handlers would decide on a path that is empty.
            raise BadMessage("request headers without :path")
        target, scheme = pseudo.get(":path", ""), pseudo.get(":scheme", "http")
    return HeldRequest(method, target, fields, scheme=scheme, body_source=body_source)


def no_request() -> HeldRequest:
    """Where a stream begins with the response."""
    return HeldRequest("", "", HeldHeaders())


def response_of(fields: Fields, body_source: BodySource) -> HeldResponse:
    """Raises BadMessage."""
    status = ""
    for each in fields.first(1):
        if each.key == ":status":
            status = each.raw_value.decode("latin-1") or each.value
    if not status:
        status = fields.pseudo().get(":status", "")
    if len(status) != _STATUS_DIGITS or not (status.isascii() and status.isdecimal()):
        raise BadMessage("response headers without a :status of three digits")
    return HeldResponse(int(status), fields, body_source=body_source)


#: Method, scheme, authority and path.
_PSEUDO_OF_REQUEST = 4
_STATUS_DIGITS = 3
#: In digits: more take long to read.
_LONGEST_LENGTH = 19
_SMALLEST_HEADER_BYTES = 2
