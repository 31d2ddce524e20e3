"""The stream of one ext_proc filter: what is sent, what comes back in time, and how it fails."""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.message import DecodeError

from coprocess.desk.envoy.simulator.attributes import NAMESPACE, attributes
from coprocess.desk.envoy.simulator.exchange import HttpMessage, LocalReply, ServerCall
from coprocess.desk.envoy.simulator.filter_config import (
    BODY_MODES,
    HEADER_MODES,
    ExtProcConfig,
    ProcessingMode,
)
from coprocess.desk.envoy.simulator.headers import HeaderMap
from coprocess.desk.envoy.simulator.mutations import InvalidMutation, apply_header_mutation
from coprocess.desk.envoy.simulator.run import Run, fill_struct, plain_struct
from coprocess.desk.envoy.simulator.server import (
    ProcessStream,
    ServerEnd,
    ServerEvent,
    ServerMessage,
    ServerUnreachable,
)
from coprocess.gateways.envoy import wire

SPURIOUS = "spurious_message"


class ProcessorStream:
    """Opened with the first thing to send. What ends it raises LocalReply, or completes it."""

    def __init__(self, name: str, run: Run, settings: ExtProcConfig) -> None:
        self.name = name
        self.run = run
        self.settings = settings
        #: Now: a `mode_override` changes it.
        self.mode = settings.mode
        #: Nothing more is sent or read.
        self.is_complete = settings.is_disabled
        #: Chunks of FULL_DUPLEX_STREAMED are gone: nothing can go on without them.
        self.saw_duplex_body = False
        self._stream: ProcessStream | None = None
        self._call: ServerCall | None = None
        self._told_attributes: set[str] = set()
        #: A reply is waited for.
        self._is_owed = False

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def open(self) -> bool:
        """Whether there is a stream to send on."""
        if self.is_complete:
            return False
        if self._stream is not None:
            return True
        service = self.settings.service
        pairs = (
            ("x-forwarded-for", self.run.client_address),
            *service.initial_metadata,
            ("x-envoy-internal", "true"),
        )
        try:
            self._stream = self.run.server.process(service.cluster, pairs)
        except ServerUnreachable:
            details = "ext_proc_error_gRPC_error_14{upstream connect error}"
            self.fail(self.settings.status_on_error, details.replace(" ", "_"))
            return False
        self._call = ServerCall("ext_proc", self.name, pairs)
        self.run.exchange.calls.append(self._call)
        return True

    def _message(self, direction: str) -> wire.ProcessingRequest:
        settings, run = self.settings, self.run
        request = wire.ProcessingRequest(observability_mode=settings.observability_mode)
        request.metadata_context.CopyFrom(run.metadata_context(settings.forwarding_namespaces))
        wanted = settings.request_attributes if direction == "request" else settings.response_attributes
        if wanted and direction not in self._told_attributes:
            self._told_attributes.add(direction)
            fill_struct(request.attributes[NAMESPACE], attributes(wanted, run))
        if self._call is not None and not self._call.sent and not settings.observability_mode:
            config = request.protocol_config
            config.SetInParent()
            config.request_body_mode = BODY_MODES.index(self.mode.request_body_mode)  # type: ignore[assignment]
            config.response_body_mode = BODY_MODES.index(self.mode.response_body_mode)  # type: ignore[assignment]
            config.send_body_without_waiting_for_header_response = settings.send_body_at_once
        return request

    def send_headers(self, direction: str, message: HttpMessage) -> None:
        request = self._message(direction)
        part: wire.HttpHeaders = getattr(request, f"{direction}_headers")
        part.headers.CopyFrom(message.headers.to_wire(self.settings.forwards))
        part.end_of_stream = message.ends_with_headers
        self._send(request)

    def send_body(self, direction: str, body: bytes, *, ends: bool) -> None:
        request = self._message(direction)
        part: wire.HttpBody = getattr(request, f"{direction}_body")
        part.SetInParent()
        part.body, part.end_of_stream = body, ends
        self._send(request)

    def send_trailers(self, direction: str, trailers: HeaderMap) -> None:
        request = self._message(direction)
        part: wire.HttpTrailers = getattr(request, f"{direction}_trailers")
        part.SetInParent()
        part.trailers.CopyFrom(trailers.to_wire(self.settings.forwards))
        self._send(request)

    def _send(self, request: wire.ProcessingRequest) -> None:
        assert self._stream is not None  # noqa: S101 - `_open` comes first
        assert self._call is not None  # noqa: S101
        if self._stream.send(request.SerializeToString()):
            self._call.sent.append(request)

    def reply(self, expected: str) -> wire.ProcessingResponse | None:
        """The reply to the message that was sent last; None where the filter is done instead."""
        reply = self.next(at_headers=expected.endswith("_headers"))
        if reply is None:
            return None
        if is_kind(reply, expected):
            return reply
        self.fail(self.settings.status_on_error, SPURIOUS)
        return None

    def next(
        self,
        *,
        at_headers: bool = False,
        waits_until_s: float | None = None,
        timeout_s: float | None = None,
    ) -> wire.ProcessingResponse | None:
        """The next reply, taken for what any reply may bring.

        None where the filter is done instead, or where none comes until `waits_until_s`.
        """
        assert self._stream is not None  # noqa: S101 - `_open` comes first
        left_s = self.settings.message_timeout_s if timeout_s is None else timeout_s
        was_extended = False
        while True:
            self._is_owed = True
            free_s = left_s if waits_until_s is None else max(waits_until_s - self.run.now_s, 0.0)
            event, took_s = self._stream.receive(min(left_s, free_s))
            if event is None:
                if waits_until_s is not None and (took_s == 0 or free_s < left_s):
                    return None
                self.run.pass_time(left_s)
                self.fail(504, "ext_proc_error_per-message_timeout_exceeded")
                return None
            self.run.pass_time(took_s)
            reply = self._judged(event)
            self._is_owed = False
            if reply is None:
                return None
            if not reply.HasField("override_message_timeout"):
                self._accept(reply, at_headers=at_headers)
                return None if self.is_complete else reply
            wanted_s = reply.override_message_timeout.seconds + reply.override_message_timeout.nanos / 1e9
            if not was_extended and 0.001 <= wanted_s <= self.settings.max_message_timeout_s:
                was_extended, left_s = True, wanted_s
            else:
                left_s = max(left_s - took_s, 0.0)

    def take_what_came(self, take: Callable[[wire.ProcessingResponse], None]) -> None:
        """The replies that are there already, without waiting."""
        while self._stream is not None and not self.is_complete:
            event = self._stream.poll()
            reply = None if event is None else self._judged(event)
            if reply is None:
                return
            if not reply.HasField("override_message_timeout"):
                self._accept(reply)
                take(reply)

    def look_for_more(self) -> None:
        """What comes while nothing is owed: an end, or a reply too many."""
        while self._stream is not None and not self.is_complete:
            event = self._stream.poll()
            if event is None:
                return
            reply = self._judged(event)
            if reply is None or reply.HasField("override_message_timeout"):
                continue
            self._accept(reply)
            if not self.is_complete:
                self.fail(self.settings.status_on_error, SPURIOUS)

    def _accept(self, reply: wire.ProcessingResponse, *, at_headers: bool = False) -> None:
        """What any reply may bring: modes, metadata, or the answer itself."""
        settings = self.settings
        mode = settings.filters_mode
        duplex = "FULL_DUPLEX_STREAMED" in (mode.request_body_mode, mode.response_body_mode)
        if (
            at_headers
            and reply.HasField("mode_override")
            and settings.allow_mode_override
            and not settings.send_body_at_once
            and not duplex
        ):
            self._override(_mode_of(reply.mode_override))
        kind = reply.WhichOneof("response")
        if kind is None:
            self.fail(settings.status_on_error, "unhandled_message")
            return
        if kind == "immediate_response" and settings.disable_immediate_response:
            text = "unhandled_immediate_response_due_to_config_disabled_it"
            self.fail(settings.status_on_error, text)
            return
        for namespace, value in plain_struct(reply.dynamic_metadata).items():
            if namespace in settings.receiving_namespaces and isinstance(value, dict):
                self.run.set_metadata(namespace, value)
        if kind == "immediate_response":
            self._answer(reply.immediate_response)

    def _override(self, wanted: ProcessingMode) -> None:
        mode = self.settings.filters_mode.overridden(wanted)
        allowed = self.settings.allowed_override_modes
        if not allowed or any(mode.matches_allowed(entry) for entry in allowed):
            self.mode = mode

    def _answer(self, immediate: wire.ImmediateResponse) -> None:
        self.finish()
        status = immediate.status.code if immediate.HasField("status") else 200

        def edit(headers: HeaderMap) -> None:
            try:
                self.note_refused(apply_header_mutation(immediate.headers, headers, self.settings.rules))
            except InvalidMutation as error:
                self._note(f"the headers of an immediate response: {error}")

        raise LocalReply(
            status if status >= 200 else 200,
            immediate.body,
            details="_".join(immediate.details.split()),
            edit=edit if immediate.HasField("headers") else None,
            grpc_status=immediate.grpc_status.status if immediate.HasField("grpc_status") else None,
        )

    def _judged(self, event: ServerEvent) -> wire.ProcessingResponse | None:
        """The reply in an event; None where the stream is over by it."""
        if isinstance(event, ServerEnd):
            if event.code == 0:
                if self._is_owed:
                    self._note("the server ended the stream with OK and owed a reply: the message passes")
                self.finish()
            else:
                text = f"ext_proc_error_gRPC_error_{event.code}{{{event.message}{{via_upstream}}}}"
                self.fail(self.settings.status_on_error, text.replace(" ", "_"))
            return None
        return self._parsed(event)

    def _parsed(self, event: ServerMessage) -> wire.ProcessingResponse | None:
        try:
            reply = wire.ProcessingResponse.FromString(event.payload)
        except DecodeError:
            details = "ext_proc_error_gRPC_error_13{via_upstream}"
            self.fail(self.settings.status_on_error, details)
            return None
        if self._call is not None:
            self._call.received.append(reply)
        return reply

    def note_refused(self, number: int) -> None:
        if self._call is not None:
            self._call.refused_edits += number

    def invalid(self, details: str) -> None:
        """The reply cannot be carried out: an error, `failure_mode_allow` or not."""
        self._note(details)
        self.finish()
        raise LocalReply(self.settings.status_on_error, details=details)

    def fail(self, status: int, details: str) -> None:
        """The stream is of no use any more: an error, or the message goes on as it is."""
        self._note(details)
        self.finish()
        if not self.settings.failure_mode_allow or self.saw_duplex_body:
            raise LocalReply(status, details=details)

    def finish(self) -> None:
        self.is_complete = True
        self.close()

    def _note(self, text: str) -> None:
        if self._call is not None:
            self._call.errors.append(text)


def is_kind(reply: wire.ProcessingResponse, kind: str) -> bool:
    return bool(reply.WhichOneof("response") == kind)


def _mode_of(override: wire.ProcessingMode) -> ProcessingMode:
    return ProcessingMode(
        **{
            field: (BODY_MODES if "_body_" in field else HEADER_MODES)[getattr(override, field)]
            for field in ProcessingMode.__slots__
        }
    )
