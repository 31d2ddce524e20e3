"""The filter ext_proc: one stream, up to six phases, and what becomes of each reply."""

from __future__ import annotations

from dataclasses import replace

from google.protobuf.message import DecodeError

from coprocess.desk.envoy.simulator.attributes import NAMESPACE, attributes
from coprocess.desk.envoy.simulator.config import BODY_MODES, HEADER_MODES, ExtProcConfig, ProcessingMode
from coprocess.desk.envoy.simulator.exchange import (
    HttpMessage,
    LocalReply,
    NeverEnds,
    ServerCall,
)
from coprocess.desk.envoy.simulator.headers import HeaderMap
from coprocess.desk.envoy.simulator.mutations import InvalidMutation, apply_header_mutation, mutated_body
from coprocess.desk.envoy.simulator.run import Run, fill_struct, plain_struct
from coprocess.desk.envoy.simulator.server import (
    ProcessStream,
    ServerEnd,
    ServerEvent,
    ServerMessage,
    ServerUnreachable,
)
from coprocess.errors import ConfigError
from coprocess.gateways.envoy import wire

_MISMATCH = "mismatch_between_content_length_and_the_length_of_the_mutated_body"
_SPURIOUS = "spurious_message"
_PLAIN_IN_DUPLEX = (
    "spurious_message:_Normal_body_mutation_response_is_received_while_body_mode__is_FULL_DUPLEX_STREAMED"
)
_REPLACE = wire.CommonResponse.ResponseStatus.Value("CONTINUE_AND_REPLACE")
_WITHOUT_LENGTH = ("STREAMED", "BUFFERED_PARTIAL", "FULL_DUPLEX_STREAMED")
#: Where Envoy itself would wait without end.
_PATIENCE_S = 60.0


class ExtProcFilter:
    """One filter, for one request. Its methods change the message, or raise LocalReply."""

    def __init__(self, name: str, run: Run) -> None:
        self.name = name
        self._run = run
        self._config: ExtProcConfig | None = None
        self._mode = ProcessingMode()
        self._stream: ProcessStream | None = None
        self._call: ServerCall | None = None
        self._told_attributes: set[str] = set()
        #: Directions whose message was replaced as a whole: no later phase follows.
        self._replaced: set[str] = set()
        self._saw_duplex_body = False
        #: Nothing more is sent or read.
        self.is_complete = False

    def begin(self, config: ExtProcConfig) -> None:
        """Take the settings of the route; later ones change nothing."""
        if self._config is None:
            self._config, self._mode = config, config.mode
            self.is_complete = config.is_disabled

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def request(self, message: HttpMessage) -> None:
        self._process("request", message)

    def response(self, message: HttpMessage) -> None:
        self._process("response", message)

    def tunnel(self, direction: str, frame: bytes) -> bytes:
        """What becomes of data of an upgraded connection."""
        if self.is_complete or self._mode.body(direction) != "STREAMED" or direction in self._replaced:
            return frame
        self._send_body(direction, frame, ends=False)
        reply = self._reply(f"{direction}_body")
        return frame if reply is None else mutated_body(_body_of(reply, direction).body_mutation, frame)

    @property
    def _settings(self) -> ExtProcConfig:
        assert self._config is not None  # noqa: S101 - `begin` comes first
        return self._config

    # The phases.

    def _process(self, direction: str, message: HttpMessage) -> None:
        if self.is_complete:
            return
        if "GRPC" in (self._mode.request_body_mode, self._mode.response_body_mode):
            raise ConfigError(f"{self.name}: the body mode GRPC is not simulated")
        if self._settings.observability_mode:
            self._observe(direction, message)
            return
        has_headers = self._mode.sends_headers(direction)
        if has_headers:
            if not self._open():
                return
            request = self._message(direction)
            _fill_headers(request, direction, message, self._settings)
            self._send(request)
            if self._runs_ahead(direction) and not message.ends_with_headers and not message.is_tunnel:
                self._drop_length(direction, message)
                self._body_ahead(direction, message)
                return
            self._drop_length(direction, message)
            reply = self._reply(f"{direction}_headers")
            if reply is None or self._take_headers(direction, reply, message):
                return
            self._look_for_more()
        else:
            self._drop_length(direction, message)
        if self.is_complete or (message.ends_with_headers and message.trailers is None):
            return
        try:
            self._body(direction, message, has_headers=has_headers)
            if message.trailers is not None and self._mode.sends_trailers(direction):
                self._trailers(direction, message)
        except LocalReply as local:
            if not has_headers:
                _left(local, direction, message)
            raise

    def _body(self, direction: str, message: HttpMessage, *, has_headers: bool) -> None:
        mode = self._mode.body(direction)
        if mode == "NONE":
            return
        if message.is_tunnel:
            if mode != "STREAMED":
                raise NeverEnds
            return
        limit = self._run.config.buffer_limit_bytes
        size = len(message.body)
        came_with_headers = has_headers and message.ends_at_s <= self._run.now_s and size <= limit
        if mode == "BUFFERED" or came_with_headers:
            self._buffered(direction, message, has_headers=has_headers)
        elif mode == "BUFFERED_PARTIAL":
            self._partial(direction, message, has_headers=has_headers)
        elif mode == "STREAMED":
            self._streamed(direction, message, has_headers=has_headers)
        else:
            self._full_duplex(direction, message, headers_open=False)

    def _buffered(self, direction: str, message: HttpMessage, *, has_headers: bool) -> None:
        if len(message.body) > self._run.config.buffer_limit_bytes:
            raise _too_large(direction)
        self._run.until(message.ends_at_s)
        if not self._open():
            return
        self._send_body(direction, message.body, ends=message.trailers is None)
        reply = self._reply(f"{direction}_body")
        if reply is None:
            return
        common = _body_of(reply, direction)
        if has_headers:
            self._edit(direction, common, message.headers)
        if common.HasField("body_mutation"):
            body = mutated_body(common.body_mutation, message.body)
            length = message.headers.get("content-length")
            if has_headers and length is not None and length.isdecimal() and int(length) != len(body):
                self._invalid(_MISMATCH)
            message.replace_body(body, self._run.now_s)
        self._clear_route(direction, common)
        self._look_for_more()

    def _partial(self, direction: str, message: HttpMessage, *, has_headers: bool) -> None:
        limit, body = self._run.config.buffer_limit_bytes, message.body
        if len(body) <= limit:
            self._buffered(direction, message, has_headers=has_headers)
            return
        size = min(self._run.partial_body_bytes or limit + 1, len(body))
        if not self._open():
            return
        self._send_body(direction, body[:size], ends=False)
        reply = self._reply(f"{direction}_body")
        if reply is None:
            return
        common = _body_of(reply, direction)
        if has_headers:
            self._edit(direction, common, message.headers)
        message.replace_body(mutated_body(common.body_mutation, body[:size]) + body[size:], message.ends_at_s)
        self._clear_route(direction, common)
        self._look_for_more()

    def _streamed(
        self, direction: str, message: HttpMessage, *, has_headers: bool, headers_open: bool = False
    ) -> None:
        """`headers_open`: the reply to the headers is still to come."""
        if not self._open():
            return
        done: list[tuple[float, bytes]] = []
        pending: list[tuple[bytes, bool]] = []

        def take(reply: wire.ProcessingResponse) -> None:
            nonlocal headers_open
            if headers_open and reply.WhichOneof("response") == f"{direction}_headers":
                headers_open = False
                self._take_headers(direction, reply, message)
                return
            if not pending or not self._is(reply, f"{direction}_body"):
                self._fail(self._settings.status_on_error, _SPURIOUS)
                return
            chunk = mutated_body(_body_of(reply, direction).body_mutation, pending.pop(0)[0])
            if chunk:
                done.append((self._run.now_s, chunk))

        groups = _groups(message, self._run.now_s if has_headers and not headers_open else -1.0)
        try:
            for arrives_at_s, chunk, ends in groups:
                self._run.until(arrives_at_s)
                if self.is_complete:
                    done.append((self._run.now_s, chunk))
                    continue
                self._send_body(direction, chunk, ends=ends)
                pending.append((chunk, ends))
                while (pending or headers_open) and not self.is_complete:
                    reply = self._next(waits=not ends)
                    if reply is None:
                        break
                    take(reply)
            while (pending or headers_open) and not self.is_complete:
                reply = self._next()
                if reply is not None:
                    take(reply)
        except LocalReply as local:
            message.chunks = done
            # A request whose body has not begun is not at the upstream yet.
            if done or (direction == "response" and not headers_open):
                _left(local, direction, message)
            raise
        message.chunks = done + [(self._run.now_s, chunk) for chunk, _ in pending]
        self._look_for_more()

    def _full_duplex(self, direction: str, message: HttpMessage, *, headers_open: bool) -> None:
        self._saw_duplex_body = True
        if not self._open():
            return
        done: list[tuple[float, bytes]] = []
        is_over = False

        def take(reply: wire.ProcessingResponse) -> None:
            nonlocal headers_open, is_over
            kind = reply.WhichOneof("response")
            if headers_open and kind == f"{direction}_headers":
                headers_open = False
                is_over = self._take_headers(direction, reply, message)
            elif kind == f"{direction}_trailers" and message.trailers is not None and not headers_open:
                self._edit_trailers(getattr(reply, kind).header_mutation, message.trailers)
                is_over = True
            elif headers_open or not self._is(reply, f"{direction}_body"):
                self._fail(self._settings.status_on_error, _SPURIOUS)
            else:
                mutation = _body_of(reply, direction).body_mutation
                if mutation.WhichOneof("mutation") != "streamed_response":
                    self._fail(self._settings.status_on_error, _PLAIN_IN_DUPLEX)
                    return
                if mutation.streamed_response.body:
                    done.append((self._run.now_s, mutation.streamed_response.body))
                is_over = mutation.streamed_response.end_of_stream

        try:
            self._take_what_came(take)
            for arrives_at_s, chunk, ends in _groups(message, -1.0):
                self._run.until(arrives_at_s)
                if is_over or self.is_complete:
                    break
                self._send_body(direction, chunk, ends=ends)
                self._take_what_came(take)
            if message.trailers is not None and not is_over and not self.is_complete:
                self._send_trailers(direction, message.trailers)
            while not is_over and not self.is_complete:
                reply = self._next(timeout_s=_PATIENCE_S)
                if reply is not None:
                    take(reply)
        except LocalReply as local:
            message.chunks = done
            # A request whose body has not begun is not at the upstream yet.
            if done or (direction == "response" and not headers_open):
                _left(local, direction, message)
            raise
        if direction not in self._replaced:
            message.chunks = done
        self._look_for_more()

    def _take_what_came(self, take: object) -> None:
        assert callable(take)  # noqa: S101 - a function of the caller's
        while not self.is_complete:
            event = self._stream.poll() if self._stream is not None else None
            reply = None if event is None else self._judged(event)
            if reply is None:
                return
            if not reply.HasField("override_message_timeout"):
                self._accept(reply)
                take(reply)

    def _trailers(self, direction: str, message: HttpMessage) -> None:
        if self.is_complete or direction in self._replaced or message.trailers is None:
            return
        self._run.until(message.ends_at_s)
        if not self._open():
            return
        self._send_trailers(direction, message.trailers)
        try:
            reply = self._reply(f"{direction}_trailers")
            if reply is not None:
                self._edit_trailers(getattr(reply, f"{direction}_trailers").header_mutation, message.trailers)
                self._look_for_more()
        except LocalReply as local:
            local.is_immediate = direction == "request"
            raise

    def _observe(self, direction: str, message: HttpMessage) -> None:
        """Send, and wait for nothing."""
        if self._mode.sends_headers(direction):
            if not self._open():
                return
            request = self._message(direction)
            _fill_headers(request, direction, message, self._settings)
            self._send(request)
        if message.ends_with_headers or message.is_tunnel:
            return
        if self._mode.body(direction) == "STREAMED":
            if not self._open():
                return
            for _, chunk, ends in _groups(message, -1.0):
                self._send_body(direction, chunk, ends=ends)
        if message.trailers is not None and self._mode.sends_trailers(direction) and self._open():
            self._send_trailers(direction, message.trailers)

    def _runs_ahead(self, direction: str) -> bool:
        """Whether the body is sent before the headers are answered."""
        mode = self._mode.body(direction)
        return mode == "FULL_DUPLEX_STREAMED" or (mode == "STREAMED" and self._settings.send_body_at_once)

    def _body_ahead(self, direction: str, message: HttpMessage) -> None:
        if self._mode.body(direction) == "STREAMED":
            self._streamed(direction, message, has_headers=True, headers_open=True)
            if message.trailers is not None and self._mode.sends_trailers(direction):
                self._trailers(direction, message)
        else:
            self._full_duplex(direction, message, headers_open=True)

    # What replies do.

    def _take_headers(
        self, direction: str, reply: wire.ProcessingResponse, message: HttpMessage
    ) -> bool:
        """Whether the reply ends the phases of this direction."""
        common = getattr(reply, f"{direction}_headers").response
        self._edit(direction, common, message.headers)
        self._clear_route(direction, common)
        if common.status != _REPLACE:
            return False
        self._replaced.add(direction)
        if common.HasField("body_mutation"):
            message.headers.remove("content-length")
            body = mutated_body(common.body_mutation, message.body)
            message.ends_with_headers = False
            message.replace_body(body, self._run.now_s)
        return True

    def _edit(self, direction: str, common: wire.CommonResponse, headers: HeaderMap) -> None:
        if not common.HasField("header_mutation"):
            return
        try:
            refused = apply_header_mutation(
                common.header_mutation,
                headers,
                self._settings.rules,
                replacing=common.status == _REPLACE,
                keeps_length_out=self._removes_length(direction),
            )
        except InvalidMutation as error:
            self._invalid(str(error))
        else:
            self._note_refused(refused)

    def _edit_trailers(self, mutation: wire.HeaderMutation, trailers: HeaderMap) -> None:
        try:
            self._note_refused(apply_header_mutation(mutation, trailers, self._settings.rules))
        except InvalidMutation as error:
            self._invalid(str(error))

    def _note_refused(self, number: int) -> None:
        if self._call is not None:
            self._call.refused_edits += number

    def _clear_route(self, direction: str, common: wire.CommonResponse) -> None:
        action = self._settings.route_cache_action
        if direction != "request" or not common.HasField("header_mutation") or action == "RETAIN":
            return
        if common.clear_route_cache or action == "CLEAR":
            self._run.choose_route()

    def _removes_length(self, direction: str) -> bool:
        mode = self._mode.body(direction)
        return mode in _WITHOUT_LENGTH or (mode == "BUFFERED" and not self._mode.sends_headers(direction))

    def _drop_length(self, direction: str, message: HttpMessage) -> None:
        if self._removes_length(direction):
            message.headers.remove("content-length")

    def _accept(self, reply: wire.ProcessingResponse, *, at_headers: bool = False) -> None:
        """What any reply may bring: modes, metadata, or the answer itself."""
        settings = self._settings
        duplex = "FULL_DUPLEX_STREAMED" in (settings.mode.request_body_mode, settings.mode.response_body_mode)
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
            self._fail(settings.status_on_error, "unhandled_message")
            return
        if kind == "immediate_response" and settings.disable_immediate_response:
            text = "unhandled_immediate_response_due_to_config_disabled_it"
            self._fail(settings.status_on_error, text)
            return
        for namespace, value in plain_struct(reply.dynamic_metadata).items():
            if namespace in settings.receiving_namespaces and isinstance(value, dict):
                self._run.set_metadata(namespace, value)
        if kind == "immediate_response":
            self._answer(reply.immediate_response)

    def _override(self, wanted: ProcessingMode) -> None:
        mode = self._settings.mode.overridden(wanted)
        allowed = self._settings.allowed_override_modes
        if not allowed or any(mode.matches_allowed(entry) for entry in allowed):
            self._mode = mode

    def _answer(self, immediate: wire.ImmediateResponse) -> None:
        self._finish()
        status = immediate.status.code if immediate.HasField("status") else 200

        def edit(headers: HeaderMap) -> None:
            try:
                self._note_refused(apply_header_mutation(immediate.headers, headers, self._settings.rules))
            except InvalidMutation as error:
                self._note(f"the headers of an immediate response: {error}")

        raise LocalReply(
            status if status >= 200 else 200,
            immediate.body,
            details="_".join(immediate.details.split()),
            edit=edit if immediate.HasField("headers") else None,
            grpc_status=immediate.grpc_status.status if immediate.HasField("grpc_status") else None,
        )

    # The stream.

    def _open(self) -> bool:
        """Whether there is a stream to send on."""
        if self.is_complete:
            return False
        if self._stream is not None:
            return True
        service = self._settings.service
        pairs = (
            ("x-forwarded-for", self._run.client_address),
            *service.initial_metadata,
            ("x-envoy-internal", "true"),
        )
        try:
            self._stream = self._run.server.process(service.cluster, pairs)
        except ServerUnreachable:
            details = "ext_proc_error_gRPC_error_14{upstream connect error}"
            self._fail(self._settings.status_on_error, details.replace(" ", "_"))
            return False
        self._call = ServerCall("ext_proc", self.name, pairs)
        self._run.exchange.calls.append(self._call)
        return True

    def _message(self, direction: str) -> wire.ProcessingRequest:
        settings, run = self._settings, self._run
        request = wire.ProcessingRequest(observability_mode=settings.observability_mode)
        request.metadata_context.CopyFrom(run.metadata_context(settings.forwarding_namespaces))
        wanted = settings.request_attributes if direction == "request" else settings.response_attributes
        if wanted and direction not in self._told_attributes:
            self._told_attributes.add(direction)
            fill_struct(request.attributes[NAMESPACE], attributes(wanted, run))
        if self._call is not None and not self._call.sent and not settings.observability_mode:
            config = request.protocol_config
            config.SetInParent()
            config.request_body_mode = BODY_MODES.index(self._mode.request_body_mode)  # type: ignore[assignment]
            config.response_body_mode = BODY_MODES.index(self._mode.response_body_mode)  # type: ignore[assignment]
            config.send_body_without_waiting_for_header_response = settings.send_body_at_once
        return request

    def _send_body(self, direction: str, body: bytes, *, ends: bool) -> None:
        request = self._message(direction)
        part: wire.HttpBody = getattr(request, f"{direction}_body")
        part.SetInParent()
        part.body, part.end_of_stream = body, ends
        self._send(request)

    def _send_trailers(self, direction: str, trailers: HeaderMap) -> None:
        request = self._message(direction)
        part: wire.HttpTrailers = getattr(request, f"{direction}_trailers")
        part.SetInParent()
        part.trailers.CopyFrom(trailers.to_wire(self._settings.forwards))
        self._send(request)

    def _send(self, request: wire.ProcessingRequest) -> None:
        assert self._stream is not None  # noqa: S101 - `_open` comes first
        assert self._call is not None  # noqa: S101
        if self._stream.send(request.SerializeToString()):
            self._call.sent.append(request)

    def _reply(self, expected: str) -> wire.ProcessingResponse | None:
        """The reply to the message that was sent last; None where the filter is done instead."""
        reply = self._next(at_headers=expected.endswith("_headers"), must_come=True)
        if reply is None:
            return None
        if self._is(reply, expected):
            return reply
        self._fail(self._settings.status_on_error, _SPURIOUS)
        return None

    def _next(
        self,
        *,
        at_headers: bool = False,
        waits: bool = False,
        must_come: bool = False,
        timeout_s: float | None = None,
    ) -> wire.ProcessingResponse | None:
        """The next reply, taken for what any reply may bring.

        None where the filter is done instead, or where none is known to come yet and one need not come.
        """
        assert self._stream is not None  # noqa: S101 - `_open` comes first
        left_s = self._settings.message_timeout_s if timeout_s is None else timeout_s
        was_extended = False
        while True:
            event, took_s = self._stream.receive(left_s)
            if event is None:
                if waits and took_s == 0:
                    return None
                self._run.pass_time(left_s)
                self._fail(504, "ext_proc_error_per-message_timeout_exceeded")
                return None
            self._run.pass_time(took_s)
            reply = self._judged(event)
            if reply is None:
                return None
            if not reply.HasField("override_message_timeout"):
                self._accept(reply, at_headers=at_headers)
                return None if self.is_complete else reply
            wanted_s = reply.override_message_timeout.seconds + reply.override_message_timeout.nanos / 1e9
            if not was_extended and 0.001 <= wanted_s <= self._settings.max_message_timeout_s:
                was_extended, left_s = True, wanted_s
            else:
                left_s = max(left_s - took_s, 0.0)

    def _look_for_more(self) -> None:
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
                self._fail(self._settings.status_on_error, _SPURIOUS)

    def _judged(self, event: ServerEvent) -> wire.ProcessingResponse | None:
        """The reply in an event; None where the stream is over by it."""
        if isinstance(event, ServerEnd):
            if event.code == 0:
                self._note("the server ended the stream with OK: later phases are not sent")
                self._finish()
            else:
                text = f"ext_proc_error_gRPC_error_{event.code}{{{event.message}{{via_upstream}}}}"
                self._fail(self._settings.status_on_error, text.replace(" ", "_"))
            return None
        return self._parsed(event)

    def _parsed(self, event: ServerMessage) -> wire.ProcessingResponse | None:
        try:
            reply = wire.ProcessingResponse.FromString(event.payload)
        except DecodeError:
            details = "ext_proc_error_gRPC_error_13{via_upstream}"
            self._fail(self._settings.status_on_error, details)
            return None
        if self._call is not None:
            self._call.received.append(reply)
        return reply

    @staticmethod
    def _is(reply: wire.ProcessingResponse, kind: str) -> bool:
        return reply.WhichOneof("response") == kind

    def _invalid(self, details: str) -> None:
        """The reply cannot be carried out: an error, `failure_mode_allow` or not."""
        self._note(details)
        self._finish()
        raise LocalReply(self._settings.status_on_error, details=details)

    def _fail(self, status: int, details: str) -> None:
        """The stream is of no use any more: an error, or the message goes on as it is."""
        self._note(details)
        self._finish()
        if not self._settings.failure_mode_allow or self._saw_duplex_body:
            raise LocalReply(status, details=details)

    def _finish(self) -> None:
        self.is_complete = True
        self.close()

    def _note(self, text: str) -> None:
        if self._call is not None:
            self._call.errors.append(text)


def _body_of(reply: wire.ProcessingResponse, direction: str) -> wire.CommonResponse:
    common: wire.CommonResponse = getattr(reply, f"{direction}_body").response
    return common


def _fill_headers(
    request: wire.ProcessingRequest, direction: str, message: HttpMessage, config: ExtProcConfig
) -> None:
    part: wire.HttpHeaders = getattr(request, f"{direction}_headers")
    part.headers.CopyFrom(message.headers.to_wire(config.forwards))
    part.end_of_stream = message.ends_with_headers


def _mode_of(message: object) -> ProcessingMode:
    names = {field: getattr(message, field) for field in ProcessingMode.__slots__}
    return replace(
        ProcessingMode(),
        **{
            field: (BODY_MODES if "_body_" in field else HEADER_MODES)[number]
            for field, number in names.items()
        },
    )


def _groups(message: HttpMessage, came_until_s: float) -> list[tuple[float, bytes, bool]]:
    """The pieces in which a body is sent: when, what, and whether it is the last.

    What came until then goes as one. The end comes by itself, empty, unless trailers follow.
    """
    first = b"".join(chunk for arrives_at_s, chunk in message.chunks if arrives_at_s <= came_until_s)
    groups = [(max(came_until_s, 0.0), first, False)] if first else []
    groups += [(at_s, chunk, False) for at_s, chunk in message.chunks if at_s > came_until_s and chunk]
    if message.trailers is None:
        groups.append((message.ends_at_s, b"", True))
    return groups


def _too_large(direction: str) -> LocalReply:
    if direction == "request":
        return LocalReply(413, b"Payload Too Large", details="request_payload_too_large")
    return LocalReply(500, b"Internal Server Error", details="response_payload_too_large")


def _left(local: LocalReply, direction: str, message: HttpMessage) -> None:
    """The headers, and what is done of the body, went on before this."""
    if direction == "request":
        local.request_left = message
    else:
        local.response_left = message
