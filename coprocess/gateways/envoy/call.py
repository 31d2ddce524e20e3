"""One call of a handler in Envoy, and what the calls of one request share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Final, Protocol

from mypy_extensions import mypyc_attr

from coprocess.api.held import HeldRequest
from coprocess.api.held_session import HeldSession
from coprocess.api.messages import Reject, Reply
from coprocess.api.moments import HookType
from coprocess.api.texts import TextMap
from coprocess.errors import ADMITS_NOBODY, HandlerFailed
from coprocess.gateways.envoy.chain import Chain, Step
from coprocess.gateways.envoy.dynamic_metadata import TOKEN
from coprocess.loading.hooks import Hook
from coprocess.loading.lifetime import Lifetime
from coprocess.runtime import admission
from coprocess.runtime.admission import Refusal
from coprocess.runtime.answers import Answer, failure_answer
from coprocess.runtime.chained import PAUSE, StepCall, Steps
from coprocess.runtime.held_call import OPEN, HeldExchange
from coprocess.transport.engine import Rpc

# An enum's members are looked up each time.
_KEY_CHECK: Final = HookType.CustomKeyCheck
_POST: Final = HookType.Post
_RESPONSE: Final = HookType.Response


class Around(Protocol):
    """What requests need of the service."""

    def fire(self, chain: Chain, event: str, message: str, about: Mapping[str, str]) -> None:
        """Tell the `@Event` functions of an event."""

    def limited(self, session: HeldSession, api_id: str) -> str:
        """`rate` or `quota` where that is exceeded, `unknown` where nobody can tell, or empty. It blocks."""

    def tell_failed(self, hook: Hook, api_id: str, error: HandlerFailed) -> None:
        """Log, and count, that what `hook` left cannot go out."""

    def answer_by_limits(self, traffic: Traffic, rpc: Rpc, limit_s: float | None) -> None:
        """Answer a Check once rate and quota were asked for; None: within the time of all handlers."""


@mypyc_attr(allow_interpreted_subclasses=True)
class TrafficCall(StepCall["Traffic"]):
    """Its attributes are what handlers may ask for."""

    __slots__ = ()

    def __init__(self, hook: Hook, traffic: Traffic) -> None:
        self.hook = hook
        self._exchange = traffic
        self._api_id = traffic.spec.api_id
        self.request = traffic.request
        self.response = traffic.response
        self.handlers_answer = None
        self.answer = OPEN
        if hook.limits.on_error == "open":
            self.keep_as_it_is()

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
        if self.hook.type is _RESPONSE:
            self._exchange.is_replaced = True


class EnvoyCall(TrafficCall):
    """One of several."""

    __slots__ = ()


@mypyc_attr(allow_interpreted_subclasses=True)
class Traffic(HeldExchange):
    """One request: what is shared by its handlers, and the steps of the moments before the upstream."""

    __slots__ = (
        "_around",
        "_metadata",
        "answer",
        "awaits_body",
        "chain",
        "failure_text",
        "has_body",
        "is_failed",
        "is_replaced",
        "last_hook",
        "lifetime",
        "metadata_source",
        "method",
    )

    #: Of a Check: the method that it came with.
    method: str

    def __init__(self, request: HeldRequest, chain: Chain, around: Around) -> None:
        # Not by the base class's, as each request makes one.
        self.request, self.response, self.spec = request, None, chain.spec
        self._session = self._state = None
        self.chain = chain
        self._around = around
        #: None where no handler leaves anything for the end.
        self.lifetime = Lifetime() if chain.has_end else None
        self._metadata: TextMap | None = None
        self.metadata_source: Callable[[], dict[str, str]] = dict
        #: Whether the body of what handlers see can be asked for; and whether they wait for it.
        self.has_body = self.awaits_body = False
        #: What ends the request here, or the response, once the steps are through.
        self.answer: Answer | None = None
        #: Why an answer was given, for access logs; empty: the answer says it.
        self.failure_text = ""
        #: Whose handler ran last: what is left then is counted as its failure, where it cannot go out.
        self.last_hook: Hook | None = None
        #: Whether `answer` is that of a failure, and not a handler's.
        self.is_failed = False
        #: Whether a handler of Response has put another response in the place of the upstream's.
        self.is_replaced = False

    @property
    def metadata(self) -> TextMap:
        """What the gateway knows of the request, and what handlers tell it and each other."""
        if self._metadata is None:
            known = self._known_before()
            if self.has_session:
                known.update(self.session.metadata, token=self.session.token)
            self._metadata = TextMap(known, "metadata")
        return self._metadata

    def _known_before(self) -> dict[str, str]:
        """What the gateway knows."""
        return self.metadata_source()

    @property
    def known_metadata(self) -> TextMap | None:
        """The same, where anybody has asked for it."""
        return self._metadata

    def _chosen_call(self, step: Step) -> EnvoyCall:
        """Raises UnknownHook."""
        chain = self.chain
        hook = chain.table.choose(step.moment, step.name, chain.route.api_id, headers=self.request.headers)
        return EnvoyCall(hook, self)

    @property
    def tells_nothing(self) -> bool:
        """Whether there is no caller, and nobody has asked for metadata."""
        return self._session is None and self._metadata is None

    # The steps: they pause where the body is to come first, and end with `answer`.

    def before_upstream(self) -> Steps:
        """Pre, CustomKeyCheck, PostKeyAuth and Post."""
        is_known = False
        for moment, steps in self.chain.before:
            if moment is _KEY_CHECK:
                # Who calls is for this moment to say, and not for one before it.
                self.forget_session()
                if self._metadata is not None:
                    self._metadata.pop(TOKEN, None)
            elif is_known and moment is _POST:
                is_known = False
                if self._is_limited():
                    yield self.ask_limits
                if self.answer is not None:
                    return
            for step in steps:
                if step.uses_body and not self.has_body:
                    self.awaits_body = True
                    yield PAUSE
                call = EnvoyCall(step.hook, self) if step.hook is not None else self._chosen_call(step)
                yield call
                if self.is_ended_by(call):
                    return
            if moment is _KEY_CHECK:
                if not self._admits():
                    return
                is_known = True
        if is_known and self._is_limited():
            yield self.ask_limits

    def after_upstream(self) -> Steps:
        """Response."""
        for step in self.chain.after:
            if step.uses_body and not self.has_body:
                self.awaits_body = True
                yield PAUSE
            call = EnvoyCall(step.hook, self) if step.hook is not None else self._chosen_call(step)
            yield call
            if self.is_ended_by(call):
                return

    def is_ended_by(self, call: EnvoyCall) -> bool:
        """Take over what came of `call`, with what access logs are told: whether it ends the request here."""
        failure = call.failure
        self.last_hook = call.hook
        if failure is None and call.answer is OPEN and call.handlers_answer is None:
            # As by `settle`, sooner: nearly all end so.
            edited = call.request if call.response is None else call.response
            if edited._has_body_of_handler or edited._headers._set_now is not None:
                edited.next_call()
            self.answer = None
            return False
        if failure is not None:
            self.failure_text = failure[1]
        answer = self.answer = self.settle(call, failure)
        if answer is None:
            return False
        self.is_failed = answer is not call.handlers_answer
        if answer.is_rejection and call.hook.type is not _RESPONSE:
            self.tell_rejection()
        return True

    def fail(self, error: HandlerFailed) -> Answer:
        """The answer where what handlers left cannot go out."""
        self.failure_text = str(error)
        if self.last_hook is not None:
            self._around.tell_failed(self.last_hook, self.spec.api_id, error)
        return failure_answer(error.status)

    def _admits(self) -> bool:
        """Whether the handlers of CustomKeyCheck have named a caller; `answer`, where they have not."""
        session = self.session
        if not session.token:
            token = "" if self._metadata is None else self._metadata.get(TOKEN, "")
            token = token or session.metadata.get(TOKEN, "")
            if admission.names_by_metadata_alone(session, token):
                name = "" if self.last_hook is None else self.last_hook.name
                self.answer = self.fail(HandlerFailed(f'CustomKeyCheck hook "{name}" {ADMITS_NOBODY}'))
                return False
            session.token = token
        if not session.token:
            self._refuse(admission.refusal_of_nobody())
            return False
        session.org_id = self.spec.org_id
        session.metadata[TOKEN] = session.token
        if self._metadata is not None:
            self._metadata.update(session.metadata)
        return True

    def admit(self) -> bool:
        """Whether rate and quota are to be asked for, where nothing runs behind CustomKeyCheck.

        `answer`, where that refuses.
        """
        session = self._session
        if session is not None and session._token and self._metadata is None:
            # As most do: named by its token, which no other handler looks for in `session.metadata`.
            if not (session._is_inactive or session._expires or session._rate or session._quota_max):
                return False
        elif not self._admits():
            return False
        return self._is_limited()

    def ask_limits(self) -> None:
        """Whether rate or quota is exceeded; `answer`, where it is. It blocks."""
        exceeded = self._around.limited(self.session, self.spec.api_id)
        refusal = admission.refusal_by_limit(exceeded)
        if refusal is not None:
            self._refuse(refusal)

    def answer_by_limits(self, rpc: Rpc, limit_s: float | None) -> None:
        """As that of what is around it."""
        self._around.answer_by_limits(self, rpc, limit_s)

    def tell_rejection(self) -> None:
        self._tell("AuthFailure", "Auth Failure")

    def _is_limited(self) -> bool:
        """Expiry, after PostKeyAuth and before Post; whether rate and quota are to be asked for, too."""
        session = self.session
        refusal = admission.refusal_of(session)
        if refusal is not None:
            self._refuse(refusal)
            return False
        return admission.is_limited(session)

    def _refuse(self, refusal: Refusal) -> None:
        if refusal.event:
            self._tell(refusal.event, refusal.message)
            self.failure_text = refusal.message
        self.answer = refusal.answer

    def _tell(self, event: str, message: str) -> None:
        if self.chain.listeners:
            key = self.session.token or self.request.headers.get("Authorization", "")
            self._around.fire(self.chain, event, message, {"Path": self.request.path, "Key": key})
