"""`Response` over Tyk's ResponseObject, and what makes its two forms of headers agree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from coprocess.http import Headers, canonical_name, header_name, header_value
from coprocess.messages import Response, body_bytes

if TYPE_CHECKING:
    from coprocess.tyk.wire import Header, ResponseObject


class TykResponse(Response):
    """A view of the message. Its headers keep both of the message's forms in step."""

    __slots__ = ("_headers", "_message", "was_edited_raw")

    def __init__(self, message: ResponseObject) -> None:
        self._message = message
        #: As for TykRequest.
        self.was_edited_raw = False
        self._headers: TykResponseHeaders | None = None

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
        if not isinstance(status, int) or not 100 <= status <= 999:
            raise ValueError(f"an HTTP status is 100 to 999, not {status!r}")
        self._message.status_code = status

    @property
    def headers(self) -> Headers:
        if self._headers is None:
            self._headers = TykResponseHeaders(self._message)
        return self._headers

    @property
    def body(self) -> bytes:
        return self._message.raw_body

    @body.setter
    def body(self, body: bytes | str) -> None:
        set_body(self._message, body_bytes(body))

    def __repr__(self) -> str:
        return f"<Response {self.status}, {len(self.body)} bytes>"


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

    __slots__ = ("_message",)

    def __init__(self, message: ResponseObject) -> None:
        self._message = message

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

    def _replace(self, name: str, values: list[str]) -> None:
        message = self._message
        entries = self._entries(name)
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
    many_before, many = _multivalues(original), _multivalues(edited)
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


def _multivalues(message: ResponseObject) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for entry in message.multivalue_headers:
        if entry.values:
            values.setdefault(canonical_name(entry.key), []).extend(entry.values)
    return values
