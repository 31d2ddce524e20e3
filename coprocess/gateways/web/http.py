"""HTTP as web servers hand it over, and as handlers see it."""

from __future__ import annotations

import functools
from collections.abc import Iterable, MutableMapping, Set

from coprocess.api.held import HeldHeaders, HeldRequest, HeldResponse, HeldSession
from coprocess.api.http import canonical_name
from coprocess.api.state import State
from coprocess.runtime.answers import Answer, error_answer
from coprocess.runtime.held_call import HeldExchange

RawHeader = tuple[bytes, bytes]

#: They are the server's to say: edits of them do not count, and a new body brings its own length.
_FRAMING = frozenset({"Content-Length", "Transfer-Encoding"})
#: Responses without a body.
_BODYLESS = frozenset({204, 205, 304})


class Caller:
    """What the app finds under `coprocess`: who calls, and what the handlers left for it.

    It is a user too, as Starlette's are.
    """

    __slots__ = ("_exchange",)

    def __init__(self, exchange: HeldExchange) -> None:
        self._exchange = exchange

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


@functools.lru_cache(maxsize=4096)
def name_of(name: bytes) -> str:
    """A header's name in the spelling of gateways."""
    return canonical_name(name.decode("latin-1"))


@functools.lru_cache(maxsize=4096)
def _sent(name: str) -> bytes:
    return name.lower().encode("latin-1")


def held_headers(raw: Iterable[RawHeader]) -> HeldHeaders:
    try:
        return HeldHeaders([(name_of(name), value.decode()) for name, value in raw])
    except UnicodeDecodeError:
        return HeldHeaders([(name_of(name), text_of(value)) for name, value in raw])


def with_edits(raw: Iterable[RawHeader], message: HeldRequest | HeldResponse) -> list[RawHeader]:
    """The headers that came, with those that handlers edited in their place. Names in lower case."""
    headers = message.headers
    edited: Set[str] = headers.edited
    if not edited.isdisjoint(_FRAMING):
        edited = edited - _FRAMING
    gone = edited | _FRAMING if message.has_new_body else edited
    result = [pair for pair in raw if name_of(pair[0]) not in gone]
    for name in sorted(edited) if len(edited) > 1 else edited:
        if values := headers.getall(name):
            sent = _sent(name)
            result += [(sent, value.encode()) for value in values]
    if message.has_new_body and not (isinstance(message, HeldResponse) and message.status in _BODYLESS):
        result.append((b"content-length", b"%d" % len(message.raw_body)))
        if isinstance(message, HeldResponse) and "Content-Type" not in headers:
            # As the server of a gateway says of text; WSGI asks for one.
            result.append((b"content-type", b"text/plain; charset=utf-8"))
    return result


def answer_headers(answer: Answer) -> list[RawHeader]:
    response = HeldResponse(answer.status, HeldHeaders())
    response.replace(answer.status, answer.headers, answer.body)
    return with_edits((), response)


def quota_headers(exchange: HeldExchange) -> list[tuple[str, str]]:
    """What a gateway tells the client of a quota; nothing where there is none."""
    if not exchange.has_session or (session := exchange.session).quota_max <= 0:
        return []
    return [
        ("X-Ratelimit-Limit", str(session.quota_max)),
        ("X-Ratelimit-Remaining", str(session.quota_remaining)),
        ("X-Ratelimit-Reset", str(session.quota_renews)),
    ]


def body_to_send(status: int, body: bytes, method: str) -> bytes:
    """`body`, if there may be one."""
    return b"" if method == "HEAD" or status in _BODYLESS else body


class HeldBody:
    """The body of a request, once it is read: within a limit, and for the app to get."""

    # No slots: most requests use none of this, and an attribute of the class costs them nothing.
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
