"""One call of a handler in Envoy, and what the calls of one request share."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, MutableMapping
from typing import Any, Protocol

from coprocess.api.held import HeldRequest, HeldSession
from coprocess.api.messages import Reject, Reply
from coprocess.api.moments import HookType
from coprocess.api.texts import TextMap
from coprocess.errors import HandlerFailed
from coprocess.gateways.envoy import guard
from coprocess.gateways.envoy.chain import Chain, Step
from coprocess.gateways.envoy.dynamic_metadata import TOKEN
from coprocess.loading.lifetime import Lifetime
from coprocess.runtime import admission
from coprocess.runtime.admission import Refusal
from coprocess.runtime.answers import Answer, failure_answer
from coprocess.runtime.call import Call
from coprocess.runtime.chained import Work
from coprocess.runtime.held_call import HeldCall, HeldExchange
from coprocess.runtime.in_process_rpc import InProcessRpc

#: To wait for the body.
BODY = object()
#: Ends with the answer that ends the request here, or None. Also yields BODY, where a body may come later.
RequestSteps = Generator[Any, Any, Answer | None]


class Around(Protocol):
    """What requests need of the service."""

    def fire(self, chain: Chain, event: str, message: str, about: Mapping[str, str]) -> None:
        """Tell the `@Event` functions of an event."""

    def limited(self, session: HeldSession, api_id: str) -> str:
        """`rate` or `quota` where that is exceeded, `unknown` where nobody can tell, or empty. It blocks."""


class EnvoyCall(HeldCall):
    """Its attributes are what handlers may ask for."""

    highest_status = guard.HIGHEST_STATUS

    __slots__ = ()

    _exchange: Traffic

    @property
    def metadata(self) -> MutableMapping[str, str]:
        return self._exchange.metadata

    @property
    def lifetime(self) -> Lifetime | None:
        """Where the code around the handler leaves what is for the end of the stream."""
        return self._exchange.lifetime

    def reply(self, reply: Reply) -> None:
        super().reply(reply)
        self._note()

    def reject(self, reject: Reject) -> None:
        super().reject(reject)
        self._exchange.failure_text = reject.message
        self._note()

    def _note(self) -> None:
        if self.hook.type is HookType.Response:
            self._exchange.is_replaced = True


class Traffic(HeldExchange):
    """One request: what is shared by its handlers, and the steps of the moments before the upstream."""

    __slots__ = (
        "_around",
        "_metadata",
        "chain",
        "failure_text",
        "has_body",
        "is_replaced",
        "lifetime",
        "metadata_source",
    )

    def __init__(self, request: HeldRequest, chain: Chain, around: Around) -> None:
        super().__init__(request, chain.spec)
        self.chain = chain
        self._around = around
        #: None where no handler leaves anything for the end.
        self.lifetime = Lifetime() if chain.has_end else None
        self._metadata: TextMap | None = None
        self.metadata_source: Callable[[], dict[str, str]] = dict
        #: Whether the request's body can be asked for.
        self.has_body = False
        #: Why an answer was given, for access logs; empty: the answer says it.
        self.failure_text = ""
        #: Whether a handler of Response has put another response in the place of the upstream's.
        self.is_replaced = False

    @property
    def metadata(self) -> TextMap:
        """What the gateway knows of the request, and what handlers tell it and each other."""
        if self._metadata is None:
            known = self.metadata_source()
            if self.has_session:
                known.update(self.session.metadata, token=self.session.token)
            self._metadata = TextMap(known, "metadata")
        return self._metadata

    @property
    def known_metadata(self) -> TextMap | None:
        """The same, where anybody has asked for it."""
        return self._metadata

    def hook_call(self, step: Step) -> EnvoyCall:
        """Raises UnknownHook."""
        hook = step.hook
        if hook is None:
            chain = self.chain
            hook = chain.table.choose(
                step.moment, step.name, chain.route.api_id, headers=self.request.headers
            )
        return EnvoyCall(hook, self)

    def before_upstream(self) -> RequestSteps:
        """Pre, CustomKeyCheck, PostKeyAuth and Post."""
        is_known = False
        for moment, steps in self.chain.before:
            if moment is HookType.CustomKeyCheck:
                # Who calls is for this moment to say, and not for one before it.
                self.forget_session()
                if self._metadata is not None:
                    self._metadata.pop(TOKEN, None)
            elif is_known and moment is HookType.Post:
                is_known = False
                if (answer := (yield from self._check_session())) is not None:
                    return answer
            for step in steps:
                if step.uses_body and not self.has_body:
                    yield BODY
                call = self.hook_call(step)
                rpc: InProcessRpc = yield call
                if (answer := self.conclude(call, rpc)) is not None:
                    if answer.is_rejection:
                        self._tell("AuthFailure", "Auth Failure")
                    return answer
            if moment is HookType.CustomKeyCheck:
                if not self._admits():
                    return self._refuse(admission.refusal_of_nobody())
                is_known = True
        if is_known:
            return (yield from self._check_session())
        return None

    def conclude(self, call: HeldCall, rpc: InProcessRpc) -> Answer | None:
        """As `settle`, with what access logs are told."""
        if rpc.failure is not None:
            self.failure_text = rpc.failure[1]
        return self.settle(call, rpc.failure)

    def fail(self, error: HandlerFailed) -> Answer:
        """The answer where what handlers left cannot go out."""
        self.failure_text = str(error)
        return failure_answer(error.status)

    def _admits(self) -> bool:
        """Whether the handlers of CustomKeyCheck have named a caller."""
        session = self.session
        if not session.token and self._metadata is not None:
            session.token = self._metadata.get(TOKEN, "")
        if not session.token:
            session.token = session.metadata.get(TOKEN, "")
        if not session.token:
            return False
        session.org_id = self.spec.org_id
        session.metadata[TOKEN] = session.token
        if self._metadata is not None:
            self._metadata.update(session.metadata)
        return True

    def _check_session(self) -> Generator[Call | Work, Any, Answer | None]:
        """Expiry, rate and quota: after PostKeyAuth, before Post."""
        session = self.session
        refusal = admission.refusal_of(session)
        if refusal is None and admission.is_limited(session):
            exceeded: str = yield lambda: self._around.limited(session, self.spec.api_id)
            refusal = admission.refusal_by_limit(exceeded)
        return None if refusal is None else self._refuse(refusal)

    def _refuse(self, refusal: Refusal) -> Answer:
        if refusal.event:
            self._tell(refusal.event, refusal.message)
            self.failure_text = refusal.message
        return refusal.answer

    def _tell(self, event: str, message: str) -> None:
        if self.chain.listeners:
            key = self.session.token or self.request.headers.get("Authorization", "")
            self._around.fire(self.chain, event, message, {"Path": self.request.path, "Key": key})
