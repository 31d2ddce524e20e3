"""What handlers see: requests, responses, the caller's session, events; and how they answer.

These types speak of HTTP and of the caller, not of one gateway. Each gateway's adapter implements
them over its own messages; what only one gateway has is marked as such.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, MutableSequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from coprocess.api.body import Body, body_bytes, dump_json
from coprocess.api.cookies import parse_cookies
from coprocess.api.http import Headers, MultiHeaders, Query, RawRequest, expect_final_status


class Spelled(type):
    """A class that does not list the names by which users of other frameworks ask: a mock of it has none."""

    def __dir__(cls) -> list[str]:
        return _own_names(cls)


def _own_names(cls: type) -> list[str]:
    names = {name: value for each in reversed(cls.__mro__) for name, value in vars(each).items()}
    return [name for name, value in names.items() if not isinstance(value, _Elsewhere)]


class Declares(Spelled):
    """A class whose name is a decorator too: `Response` is what `@Response` handlers are passed.

    Calling the class itself decorates; classes that implement it are constructed as usual.
    """

    _decorator: Callable[..., Any] | None = None

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        decorator = cls.__dict__.get("_decorator")
        if decorator is None:
            return super().__call__(*args, **kwargs)
        if cls is Response and _is_reply(args, kwargs):
            return _reply_as_elsewhere(*args, **kwargs)
        return decorator(*args, **kwargs)


class Constructed(Declares):
    """Of the classes that implement such a one: calling them makes an object, and costs nothing more."""

    __call__ = type.__call__


class _Elsewhere:
    """What users of Flask and Starlette write first, and has another name here.

    Not by `__getattr__`: a class that has that pays for it with each attribute.
    """

    def __init__(self, owner: str, name: str, here: str) -> None:
        self._text = f"a {owner} has no {name}. Expected: {here}"

    def __get__(self, instance: object, owner: type) -> Any:
        raise AttributeError(self._text)

    def __set__(self, instance: object, value: object) -> None:
        raise AttributeError(self._text)


_OF_BODIES = {
    "get_data": "{}.body",
    "data": "{}.body",
    "get_json": "{}.json()",
    "content": "{}.body",
}
_OF_REQUESTS = {
    **{name: here.format("request") for name, here in _OF_BODIES.items()},
    "args": "request.query",
    "query_params": "request.query",
    "form": "urllib.parse.parse_qs(request.text)",
    "full_path": "request.url",
    "remote_addr": 'request.headers["X-Forwarded-For"], where a proxy sets it',
}
_OF_RESPONSES = {
    **{name: here.format("response") for name, here in _OF_BODIES.items()},
    "status_code": "response.status",
    "set_cookie": 'response.headers.add("Set-Cookie", …)',
    "mimetype": 'response.headers["Content-Type"]',
    "content_type": 'response.headers["Content-Type"]',
    "media_type": 'response.headers["Content-Type"]',
}


class Request(Body, metaclass=Spelled):
    """The HTTP request on its way to the upstream. Edits take effect when the handler returns."""

    if not TYPE_CHECKING:  # Type checkers take it for all that may be assigned, in handlers too.
        __slots__ = ()

    _owner = "request"

    method: str
    #: Path and query; in Response hooks the absolute URL of the upstream. Assigning changes the path:
    #: the query is edited with `query`.
    url: str
    #: `url` without query, scheme and host. Begins with a slash; assigning anything else is a ValueError.
    path: str

    def __dir__(self) -> list[str]:
        return _own_names(type(self))

    @property
    def scheme(self) -> str:
        """`http` or `https`, as the client came."""
        raise NotImplementedError

    @property
    def target(self) -> str:
        """The request line's target as the client sent it, whatever was edited since."""
        raise NotImplementedError

    @property
    def headers(self) -> Headers:
        """Names are case-insensitive. The gateway shows one value of each."""
        raise NotImplementedError

    @property
    def query(self) -> Query:
        """The query parameters, decoded."""
        raise NotImplementedError

    @property
    def cookies(self) -> Mapping[str, str]:
        """Name to value, to read. What cannot be read as a cookie is left out."""
        # A client may send several lines: HTTP/2 has one for each.
        return parse_cookies("; ".join(self.headers.getall("Cookie")))


class Response(Body, metaclass=Declares):
    """The upstream's response on its way to the client; and `@Response`, the decorator of its handlers.

    `Response("text", status=401)`, as in Flask, is a reply: it is `respond(401, "text")`.
    """

    if not TYPE_CHECKING:  # Type checkers take it for all that may be assigned, in handlers too.
        __slots__ = ()

    if TYPE_CHECKING:  # Type checkers know a class only by its constructor, not as a decorator.

        def __init__(self, function: Any = ..., /, *args: Any, **options: Any) -> None: ...

        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    _owner = "response"

    #: Assigning anything but 200 to 999 is a ValueError: what is below ends no response.
    status: int

    def __dir__(self) -> list[str]:
        return _own_names(type(self))

    @property
    def headers(self) -> Headers:
        """All values of all headers. The gateway computes Content-Length itself."""
        raise NotImplementedError


for _class, _elsewhere in ((Request, _OF_REQUESTS), (Response, _OF_RESPONSES)):
    for _name, _here in _elsewhere.items():
        setattr(_class, _name, _Elsewhere(_class._owner, _name, _here))


class Session:
    """The authenticated caller: who it is and what it may do.

    False where the gateway sent none (before authentication, and on APIs without). CustomKeyCheck
    makes it, with `allow`; edits in other hooks reach later code of the same call only.
    """

    if not TYPE_CHECKING:  # Type checkers take it for all that may be assigned, in handlers too.
        __slots__ = ()

    metadata: MutableMapping[str, str]
    #: `rate` requests are allowed in `per` seconds; 0 is no limit.
    rate: float
    per: float
    quota_max: int
    quota_remaining: int
    #: Unix time, seconds, at which the quota starts anew.
    quota_renews: int
    #: Seconds between renewals.
    quota_renewal_rate: int
    #: Unix time, seconds; 0 and -1 mean never.
    expires: int
    tags: MutableSequence[str]
    alias: str
    org_id: str
    is_inactive: bool

    def allow(
        self,
        token: str,
        *,
        rate: float | None = None,
        per: float | None = None,
        quota_max: int | None = None,
        quota_renewal_rate_s: int | None = None,
        expires_at: int | None = None,
        cache_for_s: int | None = None,
        alias: str | None = None,
        tags: Iterable[str] = (),
        policies: Iterable[str] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Admit the caller: the one line that a CustomKeyCheck needs.

        `token` names the caller's session at the gateway: equal tokens share rate and quota. `rate`
        requests are allowed in `per` seconds (default 1). `expires_at` is unix time in seconds.
        `cache_for_s` lets the gateway's ID extractor use this session so long without asking again.
        What is not given stays as it is. Raises ValueError for an empty token.
        """
        raise NotImplementedError


class Spec:
    """The API that the call belongs to."""

    __slots__ = ()

    @property
    def api_id(self) -> str:
        raise NotImplementedError

    @property
    def org_id(self) -> str:
        raise NotImplementedError

    @property
    def config(self) -> dict[str, Any]:
        """The API's configuration for its plugins (config data), parsed; empty where there is none.

        Raises BadMessage where it is no JSON object.
        """
        raise NotImplementedError


class Event(dict[str, Any], metaclass=Declares):
    """Something that happened at the gateway; and `@Event`, the decorator of its handlers.

    As a dict, and by attribute, it is the payload itself, in the spelling of its gateway; the
    properties give its parts typed.
    """

    if TYPE_CHECKING:  # As for Response.

        def __init__(self, function: Callable[..., Any] = ..., /, **options: Any) -> None: ...

        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    @property
    def type(self) -> str:
        """The event's name, for instance `AuthFailure`; empty where the payload has none."""
        raise NotImplementedError

    @property
    def meta(self) -> dict[str, Any]:
        """What the event tells of itself; which keys there are depends on its type."""
        raise NotImplementedError

    @property
    def timestamp(self) -> datetime | None:
        """When it happened, to the microsecond; None where that is absent or not readable."""
        raise NotImplementedError

    @property
    def originating_request(self) -> RawRequest | None:
        """The HTTP request that caused it; None where there is none. Raises BadMessage if broken."""
        raise NotImplementedError

    @property
    def api_id(self) -> str:
        raise NotImplementedError

    @property
    def org_id(self) -> str:
        raise NotImplementedError

    @property
    def handler(self) -> str:
        """The name of the function that the event is for."""
        raise NotImplementedError


@dataclass(slots=True)
class Reply:
    """An answer in the upstream's place. `respond` makes one."""

    status: int
    body: bytes = b""
    headers: MultiHeaders = field(default_factory=MultiHeaders)


def respond(
    status: int = 200,
    body: str | bytes | None = None,
    *,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    json: Any = None,
) -> Reply:
    """Answer the client from here: `return respond(204)`.

    Before the upstream was asked, the chain stops and it is not asked. In a Response hook, the
    upstream's response is replaced. The client sees exactly this status, body and these headers.
    `json` is an alternative to `body`, and sets the content type. Raises ValueError where the status
    is not 200 to 999, TypeError where it is no number, or the body is neither str nor bytes.
    """
    if not isinstance(status, int):
        raise TypeError(
            f"respond takes the status first: respond({body if isinstance(body, int) else 200}, …)"
        )
    reply = Reply(expect_final_status(status), headers=MultiHeaders(headers))
    if json is not None:
        if body is not None:
            raise TypeError("respond takes body or json, not both")
        body = dump_json(json)
        reply.headers.setdefault("Content-Type", "application/json")
    reply.body = body_bytes(body) if body is not None else b""
    return reply


_REPLY_OPTIONS = frozenset(
    # Of Flask, of `respond`, of Starlette.
    {"response", "status", "headers", "mimetype", "content_type", "direct_passthrough"}
    | {"body", "json"}
    | {"content", "status_code", "media_type"}
)
_BODIES_OR_MEANT_SO = (str, bytes, bytearray, memoryview, dict, list, tuple, int, float)


def _is_reply(args: tuple[Any, ...], options: Mapping[str, Any]) -> bool:
    """Whether these arguments of `Response` make a reply. Without any, it decorates."""
    if args:
        return args[0] is None or isinstance(args[0], _BODIES_OR_MEANT_SO)
    if isinstance(options.get("body"), bool):
        return False  # Whether the handler uses the body.
    return not _REPLY_OPTIONS.isdisjoint(options)


def _reply_as_elsewhere(
    response: str | bytes | None = None,
    status: int | str = 200,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
    mimetype: str | None = None,
    content_type: str | None = None,
    direct_passthrough: bool = False,
    *,
    body: str | bytes | None = None,
    json: Any = None,
    content: str | bytes | None = None,
    status_code: int | None = None,
    media_type: str | None = None,
) -> Reply:
    """The reply that the Response of Flask or Starlette would be. `body` and `json` are as in `respond`."""
    status = status if status_code is None else status_code
    mimetype = mimetype or media_type
    if isinstance(status, str) and status[:3].isdecimal():
        status = int(status[:3])  # "401 UNAUTHORIZED"
    given = next((each for each in (response, body, content) if each is not None), None)
    reply = respond(status, given, headers=headers or (), json=json)  # type: ignore[arg-type]  # it checks
    if content_type is None and mimetype is not None:
        is_text = mimetype.startswith("text/") and "charset" not in mimetype
        content_type = f"{mimetype}; charset=utf-8" if is_text else mimetype
    if content_type is not None:
        reply.headers["Content-Type"] = content_type
    return reply


class Reject(Exception):
    """Refuse the request: `raise Reject(401, "No token")`.

    The client gets `status` and the message as the gateway's own error body, and the gateway fires
    AuthFailure. To refuse with a body of your own and without the event, `return respond(...)`.
    Raises ValueError where the status is not 400 to 599 or the message is empty.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    ) -> None:
        if not isinstance(status, int) or isinstance(status, bool) or not 400 <= status <= 599:
            raise ValueError(f"a status that rejects is 400 to 599, not {status!r}")
        if not isinstance(message, str) or not message:
            raise ValueError("a rejection needs a message: it is what the client sees")
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.headers = MultiHeaders(headers)
