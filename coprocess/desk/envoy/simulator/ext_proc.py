"""The filter ext_proc: its phases, and what becomes of each reply."""

from __future__ import annotations

from coprocess.desk.envoy.simulator.exchange import HttpMessage, LocalReply, NeverEnds
from coprocess.desk.envoy.simulator.filter_config import ExtProcConfig
from coprocess.desk.envoy.simulator.headers import HeaderMap
from coprocess.desk.envoy.simulator.mutations import InvalidMutation, apply_header_mutation, mutated_body
from coprocess.desk.envoy.simulator.processor_stream import SPURIOUS, ProcessorStream, is_kind
from coprocess.desk.envoy.simulator.run import Run
from coprocess.gateways.envoy import wire

_MISMATCH = "mismatch_between_content_length_and_the_length_of_the_mutated_body"
_PLAIN_IN_DUPLEX = (
    f"{SPURIOUS}:_Normal_body_mutation_response_is_received_while_body_mode__is_FULL_DUPLEX_STREAMED"
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
        self._begun: ProcessorStream | None = None
        #: Directions whose message was replaced as a whole: no later phase follows.
        self._replaced: set[str] = set()

    def begin(self, config: ExtProcConfig) -> None:
        """Take the settings of the route; later ones change nothing."""
        if self._begun is None:
            self._begun = ProcessorStream(self.name, self._run, config)

    def close(self) -> None:
        if self._begun is not None:
            self._begun.close()

    @property
    def _stream(self) -> ProcessorStream:
        assert self._begun is not None  # noqa: S101 - `begin` comes first
        return self._begun

    def request(self, message: HttpMessage) -> None:
        self._process("request", message)

    def response(self, message: HttpMessage) -> None:
        self._process("response", message)

    def tunnel(self, direction: str, frame: bytes) -> bytes:
        """What becomes of data of an upgraded connection."""
        if (
            self._stream.is_complete
            or self._stream.mode.body(direction) != "STREAMED"
            or direction in self._replaced
        ):
            return frame
        self._stream.send_body(direction, frame, ends=False)
        reply = self._stream.reply(f"{direction}_body")
        return frame if reply is None else mutated_body(_body_of(reply, direction).body_mutation, frame)

    # The phases.

    def _process(self, direction: str, message: HttpMessage) -> None:
        if self._stream.is_complete:
            return
        if self._stream.settings.observability_mode:
            self._observe(direction, message)
            return
        has_headers = self._stream.mode.sends_headers(direction)
        if has_headers:
            if not self._stream.open():
                return
            self._stream.send_headers(direction, message)
            if self._runs_ahead(direction) and not message.ends_with_headers and not message.is_tunnel:
                self._drop_length(direction, message)
                self._body_ahead(direction, message)
                return
            self._drop_length(direction, message)
            reply = self._stream.reply(f"{direction}_headers")
            if reply is None or self._take_headers(direction, reply, message):
                return
            self._stream.look_for_more()
        else:
            self._drop_length(direction, message)
        if self._stream.is_complete or (message.ends_with_headers and message.trailers is None):
            return
        if direction == "request" and self._run.answers_next and not has_headers:
            return  # The headers are at the router by now, which waits for no body.
        has_left = not has_headers
        try:
            self._body(direction, message, has_headers=has_headers)
            has_left |= self._stream.mode.body(direction) == "STREAMED" and bool(message.chunks)
            if message.trailers is not None and self._stream.mode.sends_trailers(direction):
                self._trailers(direction, message)
        except LocalReply as local:
            if has_left:
                _left(local, direction, message)
            raise

    def _body(self, direction: str, message: HttpMessage, *, has_headers: bool) -> None:
        mode = self._stream.mode.body(direction)
        if mode == "NONE" or _is_trailers_only(message):
            return
        if message.is_tunnel:
            if mode not in ("STREAMED", "GRPC"):
                raise NeverEnds
            return
        limit = self._run.config.buffer_limit_bytes
        size = len(message.body)
        came_with_headers = has_headers and message.ends_at_s <= self._run.now_s and size <= limit
        # Envoy 1.40 does not do what the mode's name says: what came with the headers is sent whole, as in
        # each mode, and what comes later passes unseen.
        if mode == "GRPC" and not came_with_headers:
            return
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
        if not self._stream.open():
            return
        self._stream.send_body(direction, message.body, ends=message.trailers is None)
        reply = self._stream.reply(f"{direction}_body")
        if reply is None:
            return
        common = _body_of(reply, direction)
        if has_headers:
            self._edit(direction, common, message.headers)
        if common.HasField("body_mutation"):
            body = mutated_body(common.body_mutation, message.body)
            length = message.headers.get("content-length")
            # It looks at `body` alone, whatever kind the mutation is of.
            said = len(common.body_mutation.body)
            if has_headers and length is not None and length.isdecimal() and int(length) != said:
                self._stream.invalid(_MISMATCH)
            message.replace_body(body, self._run.now_s)
        self._clear_route(direction, common)
        self._stream.look_for_more()

    def _partial(self, direction: str, message: HttpMessage, *, has_headers: bool) -> None:
        limit, body = self._run.config.buffer_limit_bytes, message.body
        if len(body) <= limit:
            self._buffered(direction, message, has_headers=has_headers)
            return
        size = min(self._run.partial_body_bytes or limit + 1, len(body))
        if not self._stream.open():
            return
        self._stream.send_body(direction, body[:size], ends=False)
        reply = self._stream.reply(f"{direction}_body")
        if reply is None:
            return
        common = _body_of(reply, direction)
        if has_headers:
            self._edit(direction, common, message.headers)
        message.replace_body(mutated_body(common.body_mutation, body[:size]) + body[size:], message.ends_at_s)
        self._clear_route(direction, common)
        self._stream.look_for_more()

    def _streamed(
        self, direction: str, message: HttpMessage, *, has_headers: bool, headers_open: bool = False
    ) -> None:
        """`headers_open`: the reply to the headers is still to come."""
        if not self._stream.open():
            return
        done: list[tuple[float, bytes]] = []
        pending: list[tuple[bytes, bool]] = []

        def take(reply: wire.ProcessingResponse) -> None:
            nonlocal headers_open
            if headers_open and reply.WhichOneof("response") == f"{direction}_headers":
                headers_open = False
                self._take_headers(direction, reply, message)
                return
            if not pending or not is_kind(reply, f"{direction}_body"):
                self._stream.fail(self._stream.settings.status_on_error, SPURIOUS)
                return
            chunk = mutated_body(_body_of(reply, direction).body_mutation, pending.pop(0)[0])
            if chunk:
                done.append((self._run.now_s, chunk))

        groups = _groups(message, self._run.now_s if has_headers and not headers_open else -1.0)
        if direction == "request" and self._run.answers_next and has_headers and not headers_open:
            # The router has the headers, and answers: only what was there is sent.
            groups = [group for group in groups[:1] if group[0] <= self._run.now_s]
        moments = [*(arrives_at_s for arrives_at_s, _, _ in groups), message.ends_at_s]
        try:
            for number, (arrives_at_s, chunk, ends) in enumerate(groups):
                self._run.until(arrives_at_s)
                if self._stream.is_complete:
                    done += [(self._run.now_s, left) for left, _ in pending]
                    pending.clear()
                    done.append((self._run.now_s, chunk))
                    continue
                self._stream.send_body(direction, chunk, ends=ends)
                pending.append((chunk, ends))
                while (pending or headers_open) and not self._stream.is_complete:
                    reply = self._stream.next(waits_until_s=None if ends else moments[number + 1])
                    if reply is None:
                        break
                    take(reply)
            while (pending or headers_open) and not self._stream.is_complete:
                reply = self._stream.next()
                if reply is not None:
                    take(reply)
        except LocalReply as local:
            message.chunks = done
            # A request whose body has not begun is not at the upstream yet.
            if done or (direction == "response" and not headers_open):
                _left(local, direction, message)
            raise
        message.chunks = done + [(self._run.now_s, chunk) for chunk, _ in pending]
        self._stream.look_for_more()

    def _full_duplex(self, direction: str, message: HttpMessage, *, headers_open: bool) -> None:
        self._stream.saw_duplex_body = not _is_trailers_only(message)
        if not self._stream.open():
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
            elif headers_open or not (is_kind(reply, f"{direction}_body") and self._stream.saw_duplex_body):
                self._stream.fail(self._stream.settings.status_on_error, SPURIOUS)
            else:
                mutation = _body_of(reply, direction).body_mutation
                if mutation.WhichOneof("mutation") != "streamed_response":
                    self._stream.fail(self._stream.settings.status_on_error, _PLAIN_IN_DUPLEX)
                    return
                if mutation.streamed_response.body:
                    done.append((self._run.now_s, mutation.streamed_response.body))
                is_over = mutation.streamed_response.end_of_stream

        try:
            self._stream.take_what_came(take)
            for arrives_at_s, chunk, ends in _groups(message, -1.0):
                self._run.until(arrives_at_s)
                if is_over or self._stream.is_complete:
                    break
                self._stream.send_body(direction, chunk, ends=ends)
                self._stream.take_what_came(take)
            if message.trailers is not None and not is_over and not self._stream.is_complete:
                self._stream.send_trailers(direction, message.trailers)
            while not is_over and not self._stream.is_complete:
                reply = self._stream.next(timeout_s=_PATIENCE_S)
                if reply is not None:
                    take(reply)
        except LocalReply as local:
            message.chunks = done
            # A request whose body has not begun is not at the upstream yet.
            if done or (direction == "response" and not headers_open and self._stream.saw_duplex_body):
                _left(local, direction, message)
            raise
        if direction not in self._replaced:
            message.chunks = done
        self._stream.look_for_more()

    def _trailers(self, direction: str, message: HttpMessage) -> None:
        if self._stream.is_complete or direction in self._replaced or message.trailers is None:
            return
        self._run.until(message.ends_at_s)
        if not self._stream.open():
            return
        self._stream.send_trailers(direction, message.trailers)
        reply = self._stream.reply(f"{direction}_trailers")
        if reply is not None:
            self._edit_trailers(getattr(reply, f"{direction}_trailers").header_mutation, message.trailers)
            self._stream.look_for_more()

    def _observe(self, direction: str, message: HttpMessage) -> None:
        """Send, and wait for nothing."""
        if self._stream.mode.sends_headers(direction):
            if not self._stream.open():
                return
            self._stream.send_headers(direction, message)
        if message.ends_with_headers or message.is_tunnel:
            return
        if self._stream.mode.body(direction) == "STREAMED":
            if not self._stream.open():
                return
            for _, chunk, ends in _groups(message, -1.0):
                self._stream.send_body(direction, chunk, ends=ends)
        if (
            message.trailers is not None
            and self._stream.mode.sends_trailers(direction)
            and self._stream.open()
        ):
            self._stream.send_trailers(direction, message.trailers)

    def _runs_ahead(self, direction: str) -> bool:
        """Whether the body is sent before the headers are answered."""
        mode = self._stream.mode.body(direction)
        return mode == "FULL_DUPLEX_STREAMED" or (
            mode == "STREAMED" and self._stream.settings.send_body_at_once
        )

    def _body_ahead(self, direction: str, message: HttpMessage) -> None:
        if self._stream.mode.body(direction) == "STREAMED":
            self._streamed(direction, message, has_headers=True, headers_open=True)
            if message.trailers is not None and self._stream.mode.sends_trailers(direction):
                self._trailers(direction, message)
        else:
            self._full_duplex(direction, message, headers_open=True)

    # What replies do.

    def _take_headers(self, direction: str, reply: wire.ProcessingResponse, message: HttpMessage) -> bool:
        """Whether the reply ends the phases of this direction."""
        common = getattr(reply, f"{direction}_headers").response
        self._edit(direction, common, message.headers)
        self._clear_route(direction, common)
        # With a body to come, FULL_DUPLEX_STREAMED goes on as if nothing were to be replaced.
        is_duplex = self._stream.mode.body(direction) == "FULL_DUPLEX_STREAMED"
        if common.status != _REPLACE or (is_duplex and not message.ends_with_headers):
            return False
        self._replaced.add(direction)
        if common.HasField("body_mutation"):
            message.headers.remove("content-length")
            body = mutated_body(common.body_mutation, message.body)
            message.ends_with_headers = False
            ends_at_s = message.ends_at_s
            message.replace_body(body, self._run.now_s)
            # What it replaces comes all the same.
            message.ends_at_s = max(message.ends_at_s, ends_at_s)
        return True

    def _edit(self, direction: str, common: wire.CommonResponse, headers: HeaderMap) -> None:
        if not common.HasField("header_mutation"):
            return
        try:
            refused = apply_header_mutation(
                common.header_mutation,
                headers,
                self._stream.settings.rules,
                replacing=common.status == _REPLACE,
                keeps_length_out=self._removes_length(direction),
            )
        except InvalidMutation as error:
            self._stream.invalid(str(error))
        else:
            self._stream.note_refused(refused)

    def _edit_trailers(self, mutation: wire.HeaderMutation, trailers: HeaderMap) -> None:
        try:
            self._stream.note_refused(apply_header_mutation(mutation, trailers, self._stream.settings.rules))
        except InvalidMutation as error:
            self._stream.invalid(str(error))

    def _clear_route(self, direction: str, common: wire.CommonResponse) -> None:
        action = self._stream.settings.route_cache_action
        if direction != "request" or not common.HasField("header_mutation") or action == "RETAIN":
            return
        if common.clear_route_cache or action == "CLEAR":
            self._run.choose_route()

    def _removes_length(self, direction: str) -> bool:
        mode = self._stream.mode.body(direction)
        return mode in _WITHOUT_LENGTH or (
            mode == "BUFFERED" and not self._stream.mode.sends_headers(direction)
        )

    def _drop_length(self, direction: str, message: HttpMessage) -> None:
        if self._removes_length(direction):
            message.headers.remove("content-length")


def _is_trailers_only(message: HttpMessage) -> bool:
    """Whether trailers follow a body in chunks of which there are none: then Envoy has no body to send."""
    return message.trailers is not None and not message.body and not message.is_tunnel


def _body_of(reply: wire.ProcessingResponse, direction: str) -> wire.CommonResponse:
    common: wire.CommonResponse = getattr(reply, f"{direction}_body").response
    return common


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
