"""HTTP as web servers hand it over, and as handlers see it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, MutableMapping, Set
from typing import TYPE_CHECKING, AnyStr

from coprocess.api.held import Bare, HeldHeaders, HeldRequest, HeldResponse
from coprocess.api.held_session import HeldSession
from coprocess.api.http import canonical_name
from coprocess.api.state import State
from coprocess.api.unread import NO_EDITS, UnreadHeaders
from coprocess.bounded import kept_by_name
from coprocess.runtime.answers import Answer, error_answer
from coprocess.runtime.held_call import HeldExchange

RawHeader = tuple[bytes, bytes]

#: They are the server's to say: edits of them do not count, and a new body brings its own length.
FRAMING = frozenset({"Content-Length", "Transfer-Encoding"})
#: Responses without a body.
_BODYLESS = frozenset({204, 205, 304})


class Caller(Bare):
    """What the app finds under `coprocess`: who calls, and what the handlers left for it.

    It is a user too, as Starlette's are.
    """

    __slots__ = ("_exchange",)

    _exchange: HeldExchange

    @property
    def session(self) -> HeldSession:
        return self._exchange.session

    @property
    def state(self) -> State:
        return self._exchange.state

    @property
    def metadata(self) -> MutableMapping[str, str]:
        return self.session.metadata

    @property
    def is_authenticated(self) -> bool:
        return bool(self.session)

    @property
    def display_name(self) -> str:
        """The session's alias, else its token."""
        return self.session.alias or self.session.token

    @property
    def identity(self) -> str:
        return self.display_name

    def __repr__(self) -> str:
        return f"<Caller {self.session!r}>"


def text_of(value: bytes) -> str:
    """A header's value as text: UTF-8, as gateways have it, else Latin-1."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


@kept_by_name
def name_of(name: bytes) -> str:
    """A header's name in the spelling of gateways."""
    return canonical_name(name.decode("latin-1"))


@kept_by_name
def _sent(name: str) -> bytes:
    return name.lower().encode("latin-1")


@kept_by_name
def _sent_edit(name: str) -> bytes:
    """As `_sent`; empty where an edit does not count."""
    return b"" if name in FRAMING else _sent(name)


class RawHeaders(Bare, UnreadHeaders):
    """Headers as servers and apps pass them: pairs of bytes. `raw_headers` makes them."""

    __slots__ = ("raw",)

    #: A copy: an app may change what is its own.
    raw: tuple[RawHeader, ...]

    def _came(self, name: str) -> list[str]:
        sent = _sent(name)
        return [text_of(value) for key, value in self.raw if key == sent or key.lower() == sent]

    def _all_that_came(self) -> Iterable[tuple[str, str]]:
        return [(name_of(name), text_of(value)) for name, value in self.raw]


def raw_headers(raw: Iterable[RawHeader]) -> RawHeaders:
    headers = RawHeaders()
    headers.raw = tuple(raw)
    # As the base class's constructor.
    headers.replaced = NO_EDITS
    headers._set_now = None
    return headers


class AppResponse(Bare, HeldResponse):
    """The response of an app. `app_response` makes one."""

    if not TYPE_CHECKING:
        __slots__ = ()


def app_response(status: int, headers: HeldHeaders, body_source: Callable[[], bytes]) -> HeldResponse:
    """As the constructor of HeldResponse."""
    response = AppResponse()
    response._status = status
    response._headers = headers
    response._body_source = body_source
    response._body = response.open_stream = None
    response.has_new_body = response._has_body_of_handler = False
    return response


def edits_of(message: HeldRequest | HeldResponse) -> tuple[Set[str], list[tuple[str, str]]]:
    """What handlers made of the headers that came: names that go, and what comes in their place."""
    headers = message.headers
    gone: Set[str] = headers.edited
    if not gone.isdisjoint(FRAMING):
        gone = gone - FRAMING
    added = [(name, value) for name in sorted(gone) for value in headers.getall(name)]
    if message.has_new_body:
        gone = gone | FRAMING
        if not (isinstance(message, HeldResponse) and message.status in _BODYLESS):
            added.append(("Content-Length", str(len(message.raw_body))))
            if isinstance(message, HeldResponse) and "Content-Type" not in headers:
                # As the server of a gateway says of text; WSGI asks for one.
                added.append(("Content-Type", "text/plain; charset=utf-8"))
    return gone, added


def with_edits(raw: Collection[RawHeader], message: HeldRequest | HeldResponse) -> list[RawHeader]:
    """The headers that came, with those that handlers edited in their place. Names in lower case."""
    replaced = message.headers.replaced
    if replaced and len(replaced) == 1 and not message.has_new_body:
        # Most handlers do no more.
        ((name, value),) = replaced.items()
        if not (sent := _sent_edit(name)):
            return [*raw]
        for came, _ in raw:
            if came.lower() == sent:
                raw = without(raw, {sent})
                break
        return [*raw, (sent, trimmed(value).encode())]
    names, added = edits_of(message)
    kept = without(raw, set(map(_sent, names)))
    return kept + [(_sent(name), trimmed(value).encode()) for name, value in added]


def trimmed(value: str) -> str:
    """A header's value without the space around it, for which some servers would send no response."""
    return value.strip(" \t")


def without(headers: Iterable[tuple[AnyStr, AnyStr]], gone: Set[AnyStr]) -> list[tuple[AnyStr, AnyStr]]:
    """Those whose names, in lower case, are not among `gone`."""
    return [pair for pair in headers if pair[0].lower() not in gone]


def response_of(answer: Answer) -> HeldResponse:
    response = HeldResponse(answer.status, HeldHeaders())
    response.replace(answer.status, answer.headers, answer.body)
    return response


def quota_headers(session: HeldSession) -> list[tuple[str, str]]:
    """What a gateway tells the client of a quota; nothing where there is none."""
    if session.quota_max <= 0:
        return []
    return [
        ("X-Ratelimit-Limit", str(session.quota_max)),
        ("X-Ratelimit-Remaining", str(session.quota_remaining)),
        ("X-Ratelimit-Reset", str(session.quota_renews)),
    ]


def end_without_body(response: HeldResponse, came_with: int) -> None:
    """Drop the body of a response that handlers gave a status which has none: what tells of it stays.

    A client reads none after such a status: it would take it for the next response.
    """
    if response.status != came_with and response.status in _BODYLESS and not response.has_new_body:
        response._body, response.has_new_body = b"", True


def body_to_send(status: int, body: bytes, method: str) -> bytes:
    """`body`, if there may be one."""
    return b"" if method == "HEAD" or status in _BODYLESS else body


class HeldBody:
    """The body of a request, once it is read: within a limit, and for the app to get."""

    # No slots: most requests use none of this.
    _limit_bytes: int
    _body = b""
    #: Whether the app gets it from here, and not from the server.
    is_read = False

    def kept(self) -> bytes:
        return self._body if self.is_read else no_body_asked_for()

    def replace(self, body: bytes) -> None:
        self._body, self.is_read = body, True

    def _too_large(self) -> Answer:
        return error_answer(413, f"the request's body is larger than {self._limit_bytes} bytes")


def no_body_asked_for() -> bytes:
    raise RuntimeError(
        "the body was not kept, as the code of the handler does not show that it is used. "
        "Expected: body=True in the handler's decorator"
    )
