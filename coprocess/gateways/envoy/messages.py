"""Requests and responses out of Envoy's header lists."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from multidict import CIMultiDict

from coprocess.api.held import HeldHeaders, HeldRequest, HeldResponse
from coprocess.api.http import canonical_name, header_name, header_value
from coprocess.errors import BadMessage

if TYPE_CHECKING:
    from coprocess.gateways.envoy.wire import HeaderValue

BodySource = Callable[[], bytes]

name_of = functools.lru_cache(maxsize=4096)(canonical_name)
_reading = threading.Lock()


class Fields(HeldHeaders):
    """A header list. What is no pseudo-header field is read when somebody asks: many handlers only set."""

    __slots__ = ("_came", "_is_read", "_new", "encoded", "pseudo")

    def __init__(self, values: Sequence[HeaderValue]) -> None:
        self._came = values
        self._is_read = False
        #: What was set before.
        self._new: dict[str, str] = {}
        self.edited = set()
        self._set_now = set()
        #: The bytes of values that are not UTF-8: those are shown as Latin-1.
        self.encoded: dict[str, bytes] = {}
        #: `:path` and its like, which come first.
        pseudo: dict[str, str] = {}
        self.pseudo = pseudo
        for each in values:
            key = each.key
            if key[:1] != ":":
                break
            value = each.raw_value
            try:
                pseudo[key] = value.decode() or each.value
            except UnicodeDecodeError:
                pseudo[key] = self._text(each)

    def _text(self, field: HeaderValue) -> str:
        # It holds the bytes; `value` is there where an old Envoy was told to use it.
        value = field.raw_value or field.value.encode()
        try:
            return value.decode()
        except UnicodeDecodeError:
            text = value.decode("latin-1")
            self.encoded[text] = value
            return text

    def read_pseudo(self) -> None:
        """Look for pseudo-header fields behind others, too."""
        self.pseudo.update((each.key, self._text(each)) for each in self._came if each.key[:1] == ":")

    def came(self, name: str) -> str | None:
        """The first value that came with this name, which is in lower case; None: none did."""
        return next((self._text(each) for each in self._came if each.key.lower() == name), None)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Called where `_values` is not there yet."""
            if name != "_values":
                raise AttributeError(name)
            with _reading:
                if not self._is_read:
                    self._read()
            return self._values

    def _read(self) -> None:
        pairs: list[tuple[str, str]] = []
        for each in self._came:
            key = each.key
            if key[:1] != ":":
                pairs.append((name_of(key), self._text(each)))
            elif key == ":authority":
                pairs.append(("Host", self._text(each)))
        values = CIMultiDict(pairs)
        for name, value in self._new.items():
            values[name] = value
        self._values = values
        self._is_read = True

    def __setitem__(self, name: str, value: str) -> None:
        if self._is_read:
            super().__setitem__(name, value)
            return
        name = header_name(name)
        self._new[name] = header_value(name, value)
        self.edited.add(name)
        self._set_now.add(name)

    def getall(self, name: str) -> list[str]:
        if not self._is_read and (value := self._new.get(canonical_name(name))) is not None:
            return [value]
        return super().getall(name)


def request_of(fields: Fields, body_source: BodySource) -> HeldRequest:
    """Raises BadMessage."""
    pseudo = fields.pseudo
    if len(pseudo) < _PSEUDO_OF_REQUEST:
        fields.read_pseudo()
    try:
        method = pseudo[":method"]
    except KeyError:
        raise BadMessage("request headers without :method") from None
    return HeldRequest(
        method,
        pseudo.get(":path", ""),  # CONNECT has none.
        fields,
        scheme=pseudo.get(":scheme", "http"),
        body_source=body_source,
    )


def no_request() -> HeldRequest:
    """Where a stream begins with the response."""
    return HeldRequest("", "", HeldHeaders())


def response_of(fields: Fields, body_source: BodySource) -> HeldResponse:
    """Raises BadMessage."""
    pseudo = fields.pseudo
    if ":status" not in pseudo:
        fields.read_pseudo()
    status = pseudo.get(":status", "")
    if len(status) != _STATUS_DIGITS or not (status.isascii() and status.isdecimal()):
        raise BadMessage("response headers without a :status of three digits")
    return _response(int(status), fields, body_source=body_source)


#: Method, scheme, authority and path.
_PSEUDO_OF_REQUEST = 4
_STATUS_DIGITS = 3
#: Its class is a decorator too, which looks at each call of it.
_response: Callable[..., HeldResponse] = functools.partial(type.__call__, HeldResponse)
