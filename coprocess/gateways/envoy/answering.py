"""What ends a request in an exchange, and the metadata that its replies carry."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from coprocess.errors import HandlerFailed, Status
from coprocess.gateways.envoy import dynamic_metadata, encoding, guard
from coprocess.gateways.envoy.call import Traffic
from coprocess.gateways.envoy.side import RequestSide, ResponseSide, Side
from coprocess.runtime.answers import Answer, error_answer, failure_answer

if TYPE_CHECKING:
    from coprocess.gateways.envoy.wire import Metadata


class Answering:
    """A part of `Exchange`."""

    __slots__ = (
        "_is_answered",
        "_is_session_told",
        "_max_body_bytes",
        "_method",
        "_request",
        "_response",
        "_response_mode",
        "_told_metadata",
        "is_done",
    )

    #: Nothing of what Envoy could still send matters to the handlers of this stream.
    is_done: bool
    _is_answered: bool
    _is_session_told: bool
    _max_body_bytes: int
    #: Of the request, as it came; empty: none did.
    _method: str
    _request: RequestSide
    #: None: nothing of it has come.
    _response: ResponseSide | None
    #: The body mode of the response, as the filter has it.
    _response_mode: int
    #: What of the metadata Envoy knows; None: nothing.
    _told_metadata: dict[str, str] | None

    def _too_large(self, side: Side, size_bytes: int) -> bytes:
        if side is self._request:
            answer = error_answer(413, "Request entity too large")
        else:
            answer = failure_answer(Status.INTERNAL)
        return self._immediate(answer, f"a body of {size_bytes} bytes or more is too large for its handlers")

    def _check_size(self, body: bytes) -> None:
        """Raises HandlerFailed for what is more than a message may have: no engine sends it."""
        if len(body) > self._max_body_bytes:
            raise HandlerFailed(f"left a body of {len(body)} bytes: the limit is {self._max_body_bytes}")

    def _answer(self, answer: Answer, traffic: Traffic) -> bytes:
        """An answer in the upstream's place, or in its response's."""
        return self._immediate(answer, traffic.failure_text, traffic)

    def _immediate(self, answer: Answer, text: str, traffic: Traffic | None = None) -> bytes:
        self.is_done = self._is_answered = True
        self._request.steps = None
        if self._response is not None:
            self._response.steps = None
        status, body = answer.status, answer.body
        try:
            if guard.status(status) < guard.LOWEST_REDIRECT:
                guard.opens_nothing(status, self._method, self._request.fields.first_that_came("upgrade"))
            if traffic is not None:
                self._check_size(body)
            mutation = guard.answer_mutation(answer.headers)
        except HandlerFailed as error:
            text = str(error)
            failed = error_answer(500, "Middleware error") if traffic is None else traffic.fail(error)
            status, body = failed.status, failed.body
            mutation = guard.answer_mutation(failed.headers)
        if status in guard.BODYLESS:
            body = b""
        metadata = b""
        if traffic is not None:
            # A handler that overruns may edit it still: the answer is what matters.
            with suppress(Exception):
                metadata = self._dynamic_metadata(traffic)
        return encoding.immediate(status, mutation, body, guard.details(text), metadata)

    # Metadata.

    def _read_metadata(self, context: Metadata, traffic: Traffic) -> None:
        told = self._told_metadata = {}

        # Of `self` nothing: a cycle for each stream would be the collector's.
        def read() -> dict[str, str]:
            came = dynamic_metadata.read_metadata(context)
            told.update(came)
            return came

        traffic.metadata_source = read

    def _dynamic_metadata(self, traffic: Traffic) -> bytes:
        """What is new since it was told last."""
        if traffic.tells_nothing:
            return b""
        session = traffic.session if traffic.has_session else None
        metadata = traffic.known_metadata
        if session is None and metadata is None:
            return b""
        is_new = not self._is_session_told
        self._is_session_told = session is not None
        if self._told_metadata is None:
            self._told_metadata = {}
        return dynamic_metadata.encoded(metadata, self._told_metadata, session, is_new=is_new)
