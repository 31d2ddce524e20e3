"""One call of a handler over what all calls of a request share, where that is held in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, Final, Generic, TypeVar

from mypy_extensions import mypyc_attr

from coprocess.api.held import HIGHEST_STATUS, HeldHeaders, HeldRequest, HeldResponse
from coprocess.api.held_session import HeldSession
from coprocess.api.messages import Reject, Reply
from coprocess.api.moments import HookType
from coprocess.api.state import State
from coprocess.errors import BadBody, HandlerFailed, Status
from coprocess.runtime.answers import Answer, error_answer, failure_answer
from coprocess.runtime.call import Call
from coprocess.runtime.held_spec import HeldSpec

#: Of a call that nobody but its handler has ended, and of one that changes nothing.
OPEN: Final[Any] = object()
_UNDONE: Final[Any] = object()


@mypyc_attr(allow_interpreted_subclasses=True)
class HeldExchange:
    """One request and its response, as handlers see and edit them."""

    # Not a dataclass: what most requests do not use is made when it is asked for.
    __slots__ = ("_session", "_state", "request", "response", "spec")

    def __init__(self, request: HeldRequest, spec: HeldSpec) -> None:
        self.request = request
        self.response: HeldResponse | None = None
        self.spec = spec
        self._session: HeldSession | None = None
        self._state: State | None = None

    @property
    def session(self) -> HeldSession:
        if self._session is None:
            self._session = HeldSession()
        return self._session

    @property
    def has_session(self) -> bool:
        """Whether a caller is known."""
        return self._session is not None and bool(self._session)

    def forget_session(self) -> None:
        self._session = None

    @property
    def state(self) -> State:
        if self._state is None:
            self._state = State()
        return self._state

    def settle(self, call: HeldCall[Any], failure: tuple[Status, str] | None) -> Answer | None:
        """Take over what came of `call`: an answer that ends the request, or None."""
        if failure is not None:
            return failure_answer(failure[0])
        answer = call.answer
        if answer is OPEN:
            answer = call.handlers_answer
        elif answer is _UNDONE:
            # The handler may still run: what it edits is nobody's any more.
            self.request, self.response = call.before
            return None
        edited = call.request if call.response is None else call.response
        if edited._has_body_of_handler or edited._headers._set_now is not None:  # As `next_call` would undo.
            edited.next_call()
        return answer

    def replace_response(self, answer: Answer) -> None:
        """Put `answer` in the place of the response."""
        came = self.response
        # A new one: a handler whose time is over may still edit the old one.
        self.response = HeldResponse(answer.status, HeldHeaders()) if came is None else came.copy()
        self.response.replace(answer.status, answer.headers, answer.body)


Shared = TypeVar("Shared", bound=HeldExchange)


@mypyc_attr(allow_interpreted_subclasses=True)
class HeldCall(Call, Generic[Shared]):
    """Its attributes are what handlers may ask for."""

    __slots__ = ("_api_id", "_exchange", "answer", "before", "handlers_answer", "request", "response")

    #: What it changes nothing of; set where it fails open.
    before: tuple[HeldRequest, HeldResponse | None]

    # Whoever derives from it sets them, in place: each handler of a request makes one.

    _exchange: Shared
    _api_id: str
    request: HeldRequest
    response: HeldResponse | None
    #: What the handler answers; it counts where nobody else has ended the call.
    handlers_answer: Answer | None
    #: What whoever else has ended it says: an overrun ends a call whose handler still runs, or has run.
    answer: Answer | None

    @property
    def api_id(self) -> str:
        return self._api_id

    def keep_as_it_is(self) -> None:
        """Keep what it changes nothing of, if it fails."""
        response = self.response
        self.before = self.request.copy(), None if response is None else response.copy()

    @property
    def session(self) -> HeldSession:
        exchange = self._exchange
        session = exchange._session
        if session is None:  # As the exchange makes it, sooner.
            session = exchange._session = HeldSession()
        return session

    @property
    def metadata(self) -> MutableMapping[str, str]:
        return self._exchange.session.metadata

    @property
    def spec(self) -> HeldSpec:
        return self._exchange.spec

    @property
    def state(self) -> State:
        return self._exchange.state

    @property
    def org_id(self) -> str:
        return self._exchange.spec.org_id

    @property
    def event_sink(self) -> Callable[[str, str], None] | None:
        return self._exchange.spec.event_sink

    def reply(self, reply: Reply) -> None:
        if not 200 <= reply.status <= HIGHEST_STATUS:
            raise HandlerFailed(f"responded with status {reply.status}: expected 200 to {HIGHEST_STATUS}")
        if self.hook.type is HookType.Response and self.response is not None:
            self.response.replace(reply.status, reply.headers.pairs(), reply.body)
            return
        self.handlers_answer = Answer(reply.status, reply.headers.pairs(), reply.body)

    def reject(self, reject: Reject) -> None:
        answer = error_answer(reject.status, reject.message, reject.headers.pairs(), is_rejection=True)
        if self.hook.type is HookType.Response and self.response is not None:
            self.response.replace(answer.status, answer.headers, answer.body)
            return
        self.handlers_answer = answer

    def refuse_body(self, error: BadBody) -> None:
        if self.hook.type is HookType.Response:
            # The client has done nothing wrong, or the app has acted on it: not its error.
            raise error
        self.handlers_answer = error_answer(error.http_status, str(error))

    def finish(self) -> bytes:
        return b""

    def unchanged(self) -> bytes | None:
        if self.answer is OPEN:
            self.answer = _UNDONE
        return b""

    def refused(self, status: int, message: str, headers: Iterable[tuple[str, str]] = ()) -> bytes:
        if self.answer is OPEN:
            self.answer = error_answer(status, message, headers)
        return b""
