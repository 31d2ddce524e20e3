"""The filter ext_authz: one question before the request goes on, and what becomes of the answer."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

from google.protobuf.message import DecodeError

from coprocess.desk.envoy.simulator.exchange import HttpMessage, LocalReply, ServerCall
from coprocess.desk.envoy.simulator.filter_config import ExtAuthzConfig
from coprocess.desk.envoy.simulator.headers import HeaderMap, is_valid_name, is_valid_value
from coprocess.desk.envoy.simulator.mutation_rules import MutationRules, Verdict
from coprocess.desk.envoy.simulator.query import Query
from coprocess.desk.envoy.simulator.run import Run, as_metadata, plain_struct
from coprocess.desk.envoy.simulator.server import ServerEnd, ServerUnreachable
from coprocess.gateways.envoy import wire

NAMESPACE = "envoy.filters.http.ext_authz"
_DEFAULT_TIMEOUT_S = 0.2
_PLAIN = re.compile(r"[A-Za-z0-9._~-]*\Z")
_APPEND, _IF_ABSENT, _OVERWRITE_OR_ADD, _OVERWRITE_IF_EXISTS = range(4)


class ExtAuthzFilter:
    """One filter, for one request. Its methods change the message, or raise LocalReply."""

    def __init__(self, name: str, run: Run) -> None:
        self.name = name
        self._run = run
        self._config: ExtAuthzConfig | None = None
        self._response_edits: list[wire.HeaderValueOption] = []

    def begin(self, config: ExtAuthzConfig) -> None:
        if self._config is None:
            self._config = config

    def close(self) -> None:
        """Its call is over."""

    @property
    def _settings(self) -> ExtAuthzConfig:
        assert self._config is not None  # noqa: S101 - `begin` comes first
        return self._config

    def request(self, message: HttpMessage) -> None:
        config = self._settings
        if config.is_disabled or self._run.route is None:
            return
        body, is_partial = self._body(message)
        question = self._question(message, body, is_partial)
        call = ServerCall("ext_authz", self.name, self._metadata())
        try:
            event, took_s = self._run.server.check(
                config.service.cluster, call.initial_metadata, question.SerializeToString(), self._timeout_s
            )
        except ServerUnreachable as error:
            self._fail(message, str(error) or "unreachable")
            return
        self._run.exchange.calls.append(call)
        call.sent.append(question)
        if event is None:
            self._run.pass_time(self._timeout_s)
            call.errors.append("no answer in time")
            self._fail(message, "timeout")
            return
        self._run.pass_time(took_s)
        if isinstance(event, ServerEnd):
            call.errors.append(f"status {event.code}: {event.message}")
            self._fail(message, event.message)
            return
        try:
            reply = wire.CheckResponse.FromString(event.payload)
        except DecodeError:
            call.errors.append("the reply is no CheckResponse")
            self._fail(message, "no CheckResponse")
            return
        call.received.append(reply)
        self._take(reply, message, call)

    def response(self, message: HttpMessage) -> None:
        """What the answer said of the response: local ones too."""
        headers = message.headers
        by_action: dict[int, list[tuple[str, str]]] = {}
        for option in self._response_edits:
            action = int(option.append_action)
            if option.HasField("append"):
                action = _APPEND if option.append.value else _OVERWRITE_OR_ADD
            by_action.setdefault(action, []).append(_pair(option))
        for name, value in by_action.get(_APPEND, ()):
            headers.add(name, value)
        for name, value in by_action.get(_OVERWRITE_OR_ADD, ()):
            headers.set(name, value)
        for name, value in by_action.get(_IF_ABSENT, ()):
            if name not in headers:
                headers.add(name, value)
        for name, value in by_action.get(_OVERWRITE_IF_EXISTS, ()):
            if name in headers:
                headers.set(name, value)

    def tunnel(self, direction: str, frame: bytes) -> bytes:
        return frame

    @property
    def _timeout_s(self) -> float:
        timeout_s = self._settings.service.timeout_s
        return _DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        service = self._settings.service
        return (
            ("x-forwarded-for", self._run.client_address),
            *service.initial_metadata,
            ("x-envoy-internal", "true"),
            ("x-envoy-expected-rq-timeout-ms", str(round(self._timeout_s * 1000))),
        )

    # The question.

    def _body(self, message: HttpMessage) -> tuple[bytes | None, bool]:
        """What of the body is sent, and whether that is a part of it; None where it is not waited for."""
        wanted = self._settings.body
        if wanted is None or message.ends_with_headers or message.is_tunnel:
            return None, False
        body = message.body
        limit = min(wanted.max_bytes, self._run.config.buffer_limit_bytes)
        if len(body) > limit and not wanted.allow_partial:
            self._run.until(message.arrival_of(limit + 1))
            raise LocalReply(
                413, b"Payload Too Large", details="request_payload_too_large", is_immediate=True
            )
        # It asks as soon as it has as much as it may send.
        is_full = wanted.allow_partial and len(body) >= wanted.max_bytes
        self._run.until(message.arrival_of(wanted.max_bytes) if is_full else message.ends_at_s)
        came = sum(len(chunk) for arrives_at_s, chunk in message.chunks if arrives_at_s <= self._run.now_s)
        return body[: wanted.max_bytes], came > wanted.max_bytes

    def _question(self, message: HttpMessage, body: bytes | None, is_partial: bool) -> wire.CheckRequest:
        config, run = self._settings, self._run
        question = wire.CheckRequest()
        attributes = question.attributes
        attributes.source.address.socket_address.address = run.client_address
        attributes.destination.address.socket_address.address = "127.0.0.1"
        attributes.request.time.GetCurrentTime()
        http = attributes.request.http
        http.id = str(time.monotonic_ns())
        http.method = message.headers.get(":method") or ""
        http.path = message.headers.get(":path") or ""
        http.host = message.headers.get(":authority") or ""
        http.scheme = message.headers.get(":scheme") or ""
        http.size = run.received_bytes
        http.protocol = "HTTP/2" if run.request.is_http2 else "HTTP/1.1"
        headers = [pair for pair in message.headers if config.forwards.allows(pair[0])]
        if body is not None:
            headers.append(("x-envoy-auth-partial-body", "true" if is_partial else "false"))
            if config.body is not None and config.body.as_bytes:
                http.raw_body = body
            else:
                http.body = _as_text(body.decode("latin-1"))
        if config.encode_raw_headers:
            http.header_map.CopyFrom(HeaderMap(headers).to_wire())
        else:
            for name, value in headers:
                joined = f"{http.headers[name]},{value}" if name in http.headers else value
                http.headers[name] = _as_text(joined)
        for key, value in config.context_extensions:
            attributes.context_extensions[key] = value
        attributes.metadata_context.CopyFrom(run.metadata_context(config.metadata_namespaces))
        of_route = {} if run.route is None else run.route.metadata
        attributes.route_metadata_context.CopyFrom(
            as_metadata(
                {name: of_route[name] for name in config.route_metadata_namespaces if name in of_route}
            )
        )
        return question

    # The answer.

    def _take(self, reply: wire.CheckResponse, message: HttpMessage, call: ServerCall) -> None:
        config, run = self._settings, self._run
        is_ok = reply.status.code == 0
        values = plain_struct(reply.dynamic_metadata)
        if values and config.takes_metadata:
            run.set_metadata(NAMESPACE, values | ({"ext_authz_duration": 0} if is_ok else {}))
        if is_ok:
            if not reply.HasField("status"):
                call.errors.append("the reply has no status: that allows the request")
            self._allow(reply.ok_response, message)
        elif reply.WhichOneof("http_response") == "error_response" and run.config.version >= (1, 37):
            self._fail(message, reply.status.message, reply.error_response)
        else:
            self._deny(reply)

    def _allow(self, ok: wire.OkHttpResponse, message: HttpMessage) -> None:
        config, headers = self._settings, message.headers
        rules = config.rules
        appended = [_pair(option) for option in ok.headers if option.append.value]
        for option in ok.headers:
            if not option.append.value and self._may_set(rules, *_pair(option)):
                headers.set(*_pair(option))
        for name, value in appended:
            if self._may_set(rules, name, value, is_appended=name in headers):
                headers.join(name, value)
        for name in ok.headers_to_remove:
            if self._may_remove(rules, name):
                headers.remove(name)
        for option in ok.response_headers_to_add:
            self._validate(*_pair(option))
        self._response_edits = list(ok.response_headers_to_add)
        if ok.query_parameters_to_set or ok.query_parameters_to_remove:
            query = Query.of(headers.get(":path") or "")
            for parameter in ok.query_parameters_to_set:
                self._validate_parameter(parameter.key, parameter.value)
                query.set(parameter.key, parameter.value)
            for name in ok.query_parameters_to_remove:
                query.remove(name)
            headers.set_in_place(":path", query.target)
        changed = (
            *(ok.headers, ok.headers_to_remove, ok.query_parameters_to_set),
            ok.query_parameters_to_remove,
        )
        if config.clear_route_cache and any(changed):
            self._run.choose_route()

    def _may_set(
        self, rules: MutationRules | None, name: str, value: str, *, is_appended: bool = False
    ) -> bool:
        self._validate(name, value)
        if rules is None:
            return True
        if not (is_valid_name(name) and is_valid_value(value)):
            return self._verdict(Verdict.FAILS if rules.disallow_is_error else Verdict.IGNORED)
        return self._verdict(rules.judge_set(name, value, is_appended=is_appended))

    def _may_remove(self, rules: MutationRules | None, name: str) -> bool:
        if rules is None:
            return not name.startswith(":") and name.lower() != "host"
        return self._verdict(rules.judge_removal(name))

    def _verdict(self, verdict: Verdict) -> bool:
        if verdict is Verdict.FAILS:
            raise LocalReply(500, details="ext_authz_invalid")
        return verdict is Verdict.TAKEN

    def _validate(self, name: str, value: str) -> None:
        if self._settings.validate_mutations and not (is_valid_name(name) and is_valid_value(value)):
            raise LocalReply(500, details="ext_authz_invalid")

    def _validate_parameter(self, name: str, value: str) -> None:
        # What is encoded already is refused, too.
        if self._settings.validate_mutations and not (_PLAIN.match(name) and _PLAIN.match(value)):
            raise LocalReply(500, details="ext_authz_invalid")

    def _deny(self, reply: wire.CheckResponse) -> None:
        denied = reply.denied_response
        has_own = reply.WhichOneof("http_response") == "denied_response"
        status = denied.status.code if has_own and denied.HasField("status") else 403
        # With `append: true` a header of a denial is lost.
        options = [option for option in denied.headers if not option.append.value]
        self._answer(status, options, denied.body, "ext_authz_denied")

    def _fail(self, message: HttpMessage, why: str, error: wire.DeniedHttpResponse | None = None) -> None:
        config = self._settings
        self._run.exchange.details = why
        if config.failure_mode_allow:
            if config.failure_mode_allow_header_add:
                message.headers.add("x-envoy-auth-failure-mode-allowed", "true")
            return
        if error is None:
            raise LocalReply(config.status_on_error, details="ext_authz_error")
        if config.validate_mutations and not all(
            is_valid_name(name) and is_valid_value(value) for name, value in map(_pair, error.headers)
        ):
            raise LocalReply(config.status_on_error, details="ext_authz_error")
        status = error.status.code if error.HasField("status") else config.status_on_error
        options = sorted(error.headers, key=lambda option: option.append.value)
        self._answer(status, options, error.body, "ext_authz_error")

    def _answer(
        self, status: int, options: Iterable[wire.HeaderValueOption], body: str, details: str
    ) -> None:
        pairs = [_pair(option) for option in options]
        for name, value in pairs:
            self._validate(name, value)

        def edit(headers: HeaderMap) -> None:
            for name, _ in pairs:
                headers.remove(name)
            for name, value in pairs:
                headers.add(name, value)

        raise LocalReply(status, body.encode(), details=details, edit=edit)


def _pair(option: wire.HeaderValueOption) -> tuple[str, str]:
    """`raw_value` is not looked at. Text beyond Latin-1 goes out as UTF-8."""
    return option.header.key, option.header.value.encode().decode("latin-1")


def _as_text(text: str) -> str:
    """What does not fit into a text field becomes `!`."""
    return "".join(character if character < "\x80" else "!" for character in text)


__all__ = ["NAMESPACE", "ExtAuthzFilter"]
