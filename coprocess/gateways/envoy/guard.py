"""What goes out to Envoy, whatever a handler did.

Envoy passes on much that breaks, or that means something else: see docs/envoy.md. What has one meaning goes
out; the rest fails the request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from coprocess.api.held import HIGHEST_STATUS, HeldHeaders, HeldRequest, HeldResponse
from coprocess.api.http import canonical_name, is_token
from coprocess.bounded import LONGEST_NAME, kept_by_name
from coprocess.errors import HandlerFailed
from coprocess.gateways.envoy import encoding
from coprocess.gateways.envoy.latin1 import Latin1

#: They say where a message ends: a wrong one would smuggle a second request. They are Envoy's.
NOT_FOR_HANDLERS: Final = frozenset(
    {
        "Connection",
        "Content-Length",
        "Host",
        "Keep-Alive",
        "Proxy-Connection",
        "Te",
        "Transfer-Encoding",
        "Upgrade",
    }
)
#: More in one reply, and Envoy refuses the request.
MAX_EDITS: Final = 100
LOWEST_STATUS: Final = 200
#: Answers with these have no body: Envoy would send one of a wrong length.
BODYLESS: Final = frozenset({204, 205, 304})
#: Behind these, no body of an upstream's is taken by Envoy. Behind 205 one is.
ENDS_WITH_HEADERS: Final = frozenset({204, 304})
LOWEST_REDIRECT: Final = 300
_SWITCHING = 101
#: Envoy sends the client what it gets for another method: a body to who asked for none is the next response.
_BY_THEMSELVES = frozenset({"CONNECT", "HEAD"})

_HARMFUL = re.compile(rb"[\x00\r\n]").search
# What handlers edit is sent as ASCII: other bytes are the client's, and Envoy has taken them.
_TARGET = re.compile(rb"[!-~\x80-\xff]+").fullmatch

Pairs = Iterable[tuple[str, str]]


def status(code: int) -> int:
    """`code`, where Envoy sends it. Raises HandlerFailed: it would answer 200 for what it does not know."""
    if not LOWEST_STATUS <= code <= HIGHEST_STATUS:
        raise HandlerFailed(f"left status {code}: expected {LOWEST_STATUS} to {HIGHEST_STATUS}")
    return code


def opens_nothing(code: int, method: str, upgrade: str | None) -> None:
    """Of an answer below LOWEST_REDIRECT, to a request of that method; `upgrade`: that it asked for, if any.

    Raises HandlerFailed where the client would take it for the tunnel that it asked for. An upgrade of HTTP/2
    is opened by 200, and looks here as one of HTTP/1.
    """
    if method == "CONNECT" or upgrade is not None:
        raise HandlerFailed(
            f"answered CONNECT, or an upgrade, with {code}: the client would take it for open"
        )


@kept_by_name
def name_bytes(name: str) -> bytes:
    """A header's name as it is sent. Raises HandlerFailed: an empty one breaks the upstream's connection."""
    if not is_token(name):
        raise HandlerFailed("left a header whose name HTTP does not allow")
    return name.lower().encode()


@kept_by_name
def handlers_name(name: str) -> bytes | None:
    """The same; None where it is not a handler's to say."""
    return None if canonical_name(name) in NOT_FOR_HANDLERS else name_bytes(name)


def method_bytes(method: str, came: str) -> bytes:
    """Of a request that came with another one. Raises HandlerFailed."""
    if not is_token(method):
        raise HandlerFailed("left a method that HTTP does not allow")
    if not _BY_THEMSELVES.isdisjoint((method, came)):
        raise HandlerFailed(f"made {came} a {method}: to the client, their answers have different forms")
    return method.encode()


def value_bytes(name: str, value: str) -> bytes:
    """Raises HandlerFailed for what would end the line."""
    if value.isprintable() and value.isascii():
        return value.encode()
    found = value.encode("latin-1") if isinstance(value, Latin1) else value.encode("utf-8", "surrogateescape")
    if _HARMFUL(found):
        raise HandlerFailed(f"left a line break in header {name}")
    return found


class Edits:
    """The header edits of one reply, as they are sent."""

    __slots__ = ("_removed", "_set", "count")

    def __init__(self) -> None:
        self._removed: list[bytes] = []
        self._set: list[bytes] = []
        self.count = 0

    def set(self, name: bytes, value: bytes) -> None:
        self._set.append(encoding.set_header(name, value))
        self.count += 1

    def remove(self, name: bytes) -> None:
        self._removed.append(name)
        self.count += 1

    def take(self, headers: HeldHeaders) -> None:
        """What handlers edited of `headers`, but for what is not theirs."""
        edited = headers.edited
        for name in sorted(edited) if len(edited) > 1 else edited:
            key = handlers_name(name)
            if key is None:
                continue
            values = headers.getall(name)
            if not values:
                self.remove(key)
                continue
            self.set(key, value_bytes(name, values[0]))
            if len(values) > 1:
                for value in values[1:]:
                    self._set.append(encoding.set_header(key, value_bytes(name, value), append=True))
                    self.count += 1

    def encoded(self) -> bytes:
        """A HeaderMutation; empty where there is none. Raises HandlerFailed where it is too long."""
        if self.count > MAX_EDITS:
            raise HandlerFailed(f"left {self.count} header edits: this gateway takes {MAX_EDITS}")
        edits = b"".join(self._set)
        return edits + encoding.remove_headers(self._removed) if self._removed else edits


def small_reply(kind: int, headers: HeldHeaders) -> bytes | None:
    """The reply of that kind where one header was set, or none: as by `Edits`, sooner.

    None: there is more to it. Raises HandlerFailed.
    """
    replaced = headers.replaced
    if not replaced:
        return encoding.EMPTY[kind] if replaced is not None else None
    if len(replaced) > 1:
        return None
    for name, value in replaced.items():
        key = handlers_name(name)
        if key is None:
            return encoding.EMPTY[kind]
        if len(key) > LONGEST_NAME:
            return None
        # What `value_bytes` does for nearly all, sooner.
        is_plain = value.isascii() and value.isprintable()
        sent = value.encode() if is_plain else value_bytes(name, value)
        return encoding.before_value(kind, key, len(sent)) + sent + encoding.AFTER_VALUE
    return None


def request_edits(request: HeldRequest, method: str) -> tuple[Edits, bool]:
    """The edits of a request that came with `method`, and whether they may lead to another route."""
    edits, is_moved = Edits(), False
    if request.method != method:
        edits.set(b":method", method_bytes(request.method, method))
        is_moved = True
    if request.has_new_path or request.has_new_query:
        edits.set(b":path", target_of(request))
        is_moved = True
    if request.headers.edited:
        edits.take(request.headers)
    return edits, is_moved


def target_of(request: HeldRequest) -> bytes:
    """Path and query: what nobody edited is sent as the bytes that came.

    Raises HandlerFailed where they are no target of a request.
    """
    query = request.query_string
    text = f"{request.encoded_path}?{query}" if query else request.encoded_path
    target = text.encode("latin-1") if isinstance(request.target, Latin1) else text.encode()
    if not _TARGET(target):
        raise HandlerFailed("left a path or query that cannot be sent")
    return target


def response_edits(response: HeldResponse, came: int, method: str) -> Edits:
    """The edits of a response that came with that status, to a request of that method."""
    edits = Edits()
    if response.status != came:
        if came == _SWITCHING or is_tunnel(method, came) or is_tunnel(method, response.status):
            # Envoy goes by the one that came: what the client sends would pass, or be taken for a request.
            raise HandlerFailed("left another status for an upgrade, or CONNECT: what follows is no response")
        edits.set(b":status", b"%d" % status(response.status))
    if response.headers.edited:
        edits.take(response.headers)
    return edits


def has_no_body(method: str, status: int) -> bool:
    """Whether Envoy lets none through from an upstream, whatever that sends."""
    return method == "HEAD" or status in ENDS_WITH_HEADERS


def is_tunnel(method: str, status: int) -> bool:
    """Whether what follows is bytes of a connection, and no body."""
    return method == "CONNECT" and status < LOWEST_REDIRECT


def answer_headers(pairs: Pairs) -> list[tuple[bytes, bytes]]:
    """The headers of an answer, without those that are not a handler's to say."""
    found = []
    for name, value in pairs:
        if canonical_name(name) not in NOT_FOR_HANDLERS:
            # As text, which is all that ext_authz takes: also what came as other bytes.
            found.append((name_bytes(name), value_bytes(name, str(value))))
    if len(found) > MAX_EDITS:
        raise HandlerFailed(f"responded with {len(found)} headers: this gateway takes {MAX_EDITS}")
    return found


def answer_mutation(pairs: Pairs) -> bytes:
    """The same as a HeaderMutation: several values of a name are lines of their own."""
    seen: set[bytes] = set()
    encoded = b""
    for name, value in answer_headers(pairs):
        encoded += encoding.set_header(name, value, append=name in seen)
        seen.add(name)
    return encoded


def details(text: str) -> str:
    """What access logs get: printable ASCII, and short."""
    return "".join(each if " " <= each <= "~" else "?" for each in text[:MAX_DETAILS])


MAX_DETAILS = 200
