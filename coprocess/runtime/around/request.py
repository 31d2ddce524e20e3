"""A request with what ends when it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mypy_extensions import mypyc_attr

from coprocess.api.held import HeldRequest
from coprocess.loading.hooks import Hook
from coprocess.loading.lifetime import Lifetime
from coprocess.runtime.answers import Answer
from coprocess.runtime.around.chain import Chain
from coprocess.runtime.held_call import OPEN, HeldCall, HeldExchange
from coprocess.runtime.held_spec import HeldSpec

if TYPE_CHECKING:
    from coprocess.runtime.in_process import InProcess


@mypyc_attr(allow_interpreted_subclasses=True)
class RequestExchange(HeldExchange):
    """One request, and the handlers that it began with: it ends with them, also where others take over."""

    __slots__ = ("answer", "calls", "chain", "given", "lifetime")

    #: What runs its handlers: to its end, also where they are closed meanwhile. Set where it is known.
    calls: InProcess

    #: What the driver of its steps has brought for what they asked for last.
    given: Any

    def __init__(self, request: HeldRequest, spec: HeldSpec, chain: Chain) -> None:
        # Not by the base class's, as each request makes one.
        self.request, self.response, self.spec = request, None, spec
        self._session = self._state = None
        self.chain = chain
        #: What ends the request here.
        self.answer: Answer | None = None
        #: None where no handler leaves anything for the end.
        self.lifetime = Lifetime() if chain.has_end else None


class RequestCall(HeldCall[RequestExchange]):
    """One call of a handler for it. `request_call` makes one."""

    __slots__ = ()

    @property
    def lifetime(self) -> Lifetime | None:
        """Where the code around the handler leaves what is for the end of the request."""
        return self._exchange.lifetime


def request_call(hook: Hook, exchange: RequestExchange) -> RequestCall:
    """No constructor: in Python that costs more than what it does."""
    call = RequestCall()
    call.hook = hook
    call._exchange = exchange
    call._api_id = exchange.spec.api_id
    call.request = exchange.request
    call.response = exchange.response
    call.handlers_answer = None
    call.answer = OPEN
    if hook.limits.on_error == "open":
        call.keep_as_it_is()
    return call
