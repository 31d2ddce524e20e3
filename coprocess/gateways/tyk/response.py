"""`Response` over Tyk's ResponseObject, and what makes its two forms of headers agree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from coprocess.api.body import OF_THE_BYTES
from coprocess.api.http import Headers, canonical_name, expect_final_status, header_name, header_value
from coprocess.api.messages import Constructed, Response

if TYPE_CHECKING:
    from coprocess.gateways.tyk.wire import Header, ResponseObject


class TykResponse(Response, metaclass=Constructed):
    """A view of the message. Its headers keep both of the message's forms in step."""

    gateway: ClassVar[str] = "tyk"

    __slots__ = ("_has_new_body", "_headers", "_message", "was_edited_raw")

    def __init__(self, message: ResponseObject) -> None:
        self._message = message
        #: As for TykRequest.
        self.was_edited_raw = False
        self._headers: TykResponseHeaders | None = None
        self._has_new_body = False

    @property
    def object(self) -> ResponseObject:
        """Tyk only: the protocol's own message."""
        self.was_edited_raw = True
        return self._message

    @property
    def status(self) -> int:
        return self._message.status_code

    @status.setter
    def status(self, status: int) -> None:
        self._message.status_code = expect_final_status(status)

    @property
    def headers(self) -> TykResponseHeaders:
        if self._headers is None:
            self._headers = TykResponseHeaders(self._message)
        return self._headers

    @property
    def raw_body(self) -> bytes:
        return self._message.raw_body

    def _coding_of_body(self) -> str:
        return "" if self._has_new_body else ", ".join(self.headers.that_came("Content-Encoding"))

    def _replace_body(self, body: bytes) -> None:
        set_body(self._message, body)
        self._has_new_body = True
        self.headers.drop_of_the_bytes()
        if self.status == _PARTIAL and self.headers.drop_untouched("Content-Range"):
            # The new body is no part of anything.
            self.status = _OK

    def __repr__(self) -> str:
        return f"<Response {self.status}, {len(self.raw_body)} bytes>"


_OK, _PARTIAL = 200, 206


def set_body(message: ResponseObject, body: bytes) -> None:
    """Set both forms of the body; text is left empty where the bytes are none."""
    message.raw_body = body
    try:
        message.body = body.decode()
    except UnicodeDecodeError:
        message.body = ""


class TykResponseHeaders(Headers):
    """Headers of a response, over multivalue_headers (all values) and headers (the first of each).

    The gateway takes multivalue_headers as they are only where headers is untouched; else headers
    decides which names there are. Every edit here is made in both, so that either way gives the same.
    """

    __slots__ = ("_before", "_message")

    def __init__(self, message: ResponseObject) -> None:
        self._message = message
        #: The values that names had when they were first edited.
        self._before: dict[str, list[str]] = {}

    def _entries(self, name: str) -> list[Header]:
        name = canonical_name(name)
        return [entry for entry in self._message.multivalue_headers if canonical_name(entry.key) == name]

    def getall(self, name: str) -> list[str]:
        return [value for entry in self._entries(name) for value in entry.values]

    def __getitem__(self, name: str) -> str:
        values = self.getall(name)
        if not values:
            raise KeyError(name)
        return values[0]

    def __setitem__(self, name: str, value: str) -> None:
        name = header_name(name)
        self._replace(name, [header_value(name, value)])

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        self._replace(canonical_name(name), [])

    def add(self, name: str, value: str) -> None:
        name = header_name(name)
        self._replace(name, [*self.getall(name), header_value(name, value)])

    def that_came(self, name: str) -> list[str]:
        """All values of `name` (in canonical spelling) before any edit."""
        before = self._before.get(name)
        return self.getall(name) if before is None else before

    def drop_of_the_bytes(self) -> None:
        """Drop what tells of the bytes of a body, but for what was edited."""
        for name in [name for name in self if name in OF_THE_BYTES]:
            self.drop_untouched(name)

    def drop_untouched(self, name: str) -> bool:
        """Drop `name` (in canonical spelling), unless it was edited. Whether it is gone by this."""
        if name in self._before or name not in self:
            return False
        del self[name]
        return True

    def _replace(self, name: str, values: list[str]) -> None:
        message = self._message
        entries = self._entries(name)
        if name not in self._before:
            self._before[name] = [value for entry in entries for value in entry.values]
        if entries and values:
            del entries[0].values[:]
            entries[0].values.extend(values)
            superfluous = entries[1:]
        else:
            superfluous = entries
        for entry in superfluous:
            message.multivalue_headers.remove(entry)
        if values and not entries:
            message.multivalue_headers.add(key=name, values=values)
        for key in [key for key in message.headers if canonical_name(key) == name]:
            del message.headers[key]
        if values:
            message.headers[name] = values[0]

    def __iter__(self) -> Iterator[str]:
        return iter(
            dict.fromkeys(
                canonical_name(entry.key) for entry in self._message.multivalue_headers if entry.values
            )
        )

    def __len__(self) -> int:
        return sum(1 for _ in self)


def reconcile_headers(edited: ResponseObject, original: ResponseObject) -> None:
    """Make the two forms agree after a handler edited the message itself.

    An edit in either form counts; where both were edited, multivalue_headers has all values and wins
    for its own names. Left alone, the gateway drops names that only multivalue_headers has as soon as
    headers changed (recording resp_delete_multivalue_change_map).
    """
    before, after = dict(original.headers), dict(edited.headers)
    many_before, many = multivalues(original), multivalues(edited)
    if before == after and many_before == many:
        return
    for name in before.keys() | after.keys():
        if before.get(name) == after.get(name):
            continue
        key = canonical_name(name)
        if many.get(key) != many_before.get(key):
            continue
        if name in after:
            many[key] = [after[name], *many.get(key, [])[1:]]
        else:
            many.pop(key, None)
    del edited.multivalue_headers[:]
    edited.headers.clear()
    for key, values in many.items():
        edited.multivalue_headers.add(key=key, values=values)
        edited.headers[key] = values[0]


def multivalues(message: ResponseObject) -> dict[str, list[str]]:
    """All values of each header, by its name in canonical spelling."""
    values: dict[str, list[str]] = {}
    for entry in message.multivalue_headers:
        if entry.values:
            values.setdefault(canonical_name(entry.key), []).extend(entry.values)
    return values
