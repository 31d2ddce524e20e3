"""One request's way through a gateway with one API."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable

from coprocess.desk.tyk.simulator.answer import client_response, error_page
from coprocess.desk.tyk.simulator.apply import (
    apply_request_edits,
    apply_response_edits,
    apply_return_overrides,
    token_of,
)
from coprocess.desk.tyk.simulator.client import call
from coprocess.desk.tyk.simulator.definition import ApiDefinition, HookDefinition
from coprocess.desk.tyk.simulator.events import as_json, payloads
from coprocess.desk.tyk.simulator.exchange import (
    Dispatcher,
    Exchange,
    HookCall,
    HttpResponse,
    RpcError,
)
from coprocess.desk.tyk.simulator.headers import GoHeader
from coprocess.desk.tyk.simulator.id_extractor import session_id
from coprocess.desk.tyk.simulator.objects import (
    CUSTOM_KEY_CHECK,
    POST,
    POST_KEY_AUTH,
    PRE,
    RESPONSE,
    GatewayResponse,
    NotUtf8,
    add_response,
    build_object,
)
from coprocess.desk.tyk.simulator.outcome import Answered, Dropped, Failed, FailureReason
from coprocess.desk.tyk.simulator.proxy import send_upstream
from coprocess.desk.tyk.simulator.request import GatewayRequest
from coprocess.desk.tyk.simulator.session import GatewayState, accept_session, keyless_session
from coprocess.desk.tyk.simulator.url import BadUrl
from coprocess.desk.upstreams import Upstream, UpstreamReply, UpstreamRequest
from coprocess.gateways.tyk import wire


class Gateway:
    """Tyk Gateway 5.14, as far as plugins can tell, with one API and nothing on the network.

    Sessions, rates and quotas live in `state`; give gateways of several APIs the same one, as a real
    gateway has. Not for use by several threads at once.
    """

    def __init__(
        self,
        definition: ApiDefinition,
        dispatcher: Dispatcher,
        upstream: Upstream,
        *,
        host: str = "127.0.0.1:8081",
        client_address: str = "127.0.0.1",
        clock: Callable[[], float] = time.time,
        state: GatewayState | None = None,
    ) -> None:
        self.definition = definition
        self.dispatcher = dispatcher
        self.upstream = upstream
        self.host = host
        self.client_address = client_address
        self.clock = clock
        self.state = GatewayState() if state is None else state

    def request(
        self, method: str, target: str, headers: Iterable[tuple[str, str]] = (), body: bytes = b""
    ) -> Exchange:
        """Send one HTTP request through. `Host` is the gateway's own where `headers` has none.

        Raises ValueError where `target` is no request target: Go's server would answer 400 by itself.
        """
        try:
            request = GatewayRequest.received(
                method, target, headers, body, host=self.host, client_address=self.client_address
            )
        except BadUrl as error:
            raise ValueError(str(error)) from error
        return _Passage(self, request).run()


class _Passage:
    """One request on its way."""

    def __init__(self, gateway: Gateway, request: GatewayRequest) -> None:
        self.gateway = gateway
        self.definition = gateway.definition
        self.method = request.method
        self.request = request
        self.session: wire.SessionState | None = None
        self.exchange = Exchange()

    def run(self) -> Exchange:
        try:
            self.exchange.http_response = self._respond()
        except Dropped as fault:
            self.exchange.dropped = str(fault)
        else:
            self._remember()
        return self.exchange

    def _respond(self) -> HttpResponse:
        try:
            response = self._pass()
        except Failed as failure:
            self.exchange.failure = failure.reason
            headers = failure.headers
            content_type = self.request.headers.get("Content-Type")
            page = error_page(content_type, failure.message, headers)
            return self._written(GatewayResponse(failure.status, headers, page))
        except Answered as answer:
            return self._written(GatewayResponse(answer.status, answer.headers, answer.body))
        return self._written(response)

    def _written(self, response: GatewayResponse) -> HttpResponse:
        return client_response(
            self.method,
            response.status,
            response.headers,
            response.body,
            now=self.gateway.clock(),
            streamed=response.streamed,
        )

    def _pass(self) -> GatewayResponse:
        if not self.definition.listens_on(self.request.url.decoded_path):
            raise Answered(404, GoHeader(), b"Not Found")
        for hook in self.definition.pre:
            self._request_hook(PRE, hook)
        if not self.definition.keyless:
            self._authenticate()
            for hook in self.definition.post_key_auth:
                self._request_hook(POST_KEY_AUTH, hook)
            self._check_session()
        for hook in self.definition.post:
            self._request_hook(POST, hook)
        sent = send_upstream(self.definition, self.request, self._upstream)
        response = sent[2]
        for hook in self.definition.response:
            self._response_hook(hook, response)
        response.headers.remove_hop_by_hop()
        session = self.session or keyless_session()
        response.headers.set("X-Ratelimit-Limit", str(session.quota_max))
        response.headers.set("X-Ratelimit-Remaining", str(session.quota_remaining))
        response.headers.set("X-Ratelimit-Reset", str(session.quota_renews))
        return response

    def _upstream(self, request: UpstreamRequest) -> UpstreamReply:
        self.exchange.upstream_request = request
        self.exchange.upstream_reply = self.gateway.upstream(request)
        return self.exchange.upstream_reply

    # Hooks

    def _dispatch(self, built: wire.Object) -> wire.Object:
        """Raises RpcError."""
        reply: wire.Object | None = None
        error: RpcError | None = None
        started = time.perf_counter()
        try:
            reply = call(self.gateway.dispatcher, built.SerializeToString())
        except RpcError as failed:
            error = failed
        seconds = time.perf_counter() - started
        # A copy: what the gateway writes into a reply was not in what the plugin sent.
        received = None
        if reply is not None:
            received = wire.Object()
            received.CopyFrom(reply)
        self.exchange.hooks.append(
            HookCall(wire.HookType.Name(built.hook_type), built.hook_name, built, received, error, seconds)
        )
        if reply is None:
            raise error or RpcError("UNKNOWN")
        return reply

    def _request_hook(self, hook_type: wire.HookType, hook: HookDefinition) -> tuple[wire.Object, str]:
        """One hook before the upstream: its reply, applied, and the token in it."""
        try:
            built = build_object(hook_type, hook, self.definition, self.request, self.session)
        except NotUtf8 as error:
            # Serializing fails inside the gateway's gRPC client: to the chain it is a failed call.
            raise self._call_failure(hook_type, "not-utf8") from error
        try:
            reply = self._dispatch(built)
        except RpcError as error:
            raise self._call_failure(hook_type) from error
        apply_request_edits(reply, self.request)
        token = token_of(reply)
        apply_return_overrides(reply, token, self._auth_failed)
        return reply, token

    @staticmethod
    def _call_failure(hook_type: wire.HookType, reason: FailureReason = "call") -> Failed:
        if hook_type == CUSTOM_KEY_CHECK:
            return Failed(reason, 403, "Key not authorised")
        return Failed(reason, 500, "Middleware error")

    def _response_hook(self, hook: HookDefinition, response: GatewayResponse) -> None:
        session = self.session or keyless_session()
        try:
            built = build_object(RESPONSE, hook, self.definition, self.request, session)
            add_response(built, hook, response)
            reply = self._dispatch(built)
        except NotUtf8 as error:
            raise self._call_failure(RESPONSE, "not-utf8") from error
        except RpcError as error:
            raise self._call_failure(RESPONSE) from error
        apply_response_edits(built, reply, response)

    # Who calls, and how often

    def _authenticate(self) -> None:
        definition = self.definition
        if definition.auth_check is None:
            raise self._unauthenticated()
        found = ""
        if definition.id_extractor:
            found = session_id(definition.id_extractor, self.request, definition.org_id)
            known = self.gateway.state.sessions.get(found)
            if known is not None and known.id_extractor_deadline > int(self.gateway.clock()):
                self.session = wire.SessionState()
                self.session.CopyFrom(known)
                return
        credential = self.request.headers.get(definition.auth_header)
        reply, token = self._request_hook(CUSTOM_KEY_CHECK, definition.auth_check)
        if not token:
            self._auth_failed(self.request.headers.get(definition.auth_header))
            raise Failed("no-token", 403, "Forbidden")
        session = accept_session(reply.session, definition.org_id)
        if session.apply_policy_id or session.apply_policies:
            # There are no policies here, as in a gateway that has none by that name.
            self._auth_failed(credential)
            raise Failed("policy", 403, "Forbidden")
        session.key_id = found or token
        before = self.gateway.state.sessions.get(session.key_id)
        if before is not None:
            session.quota_renews = before.quota_renews
            session.quota_remaining = before.quota_remaining
        self.session = session

    def _unauthenticated(self) -> Failed:
        """Where the definition relies on the gateway's own keys, of which there are none here."""
        if self.definition.plugin_auth:
            return Failed(
                "no-auth-plugin",
                400,
                "Session state is missing or unset! Please make sure that auth headers are properly applied",
            )
        if not self.request.headers.get(self.definition.auth_header):
            return Failed("no-auth-plugin", 401, "Authorization field missing")
        return Failed("no-auth-plugin", 403, "Access to this API has been disallowed")

    def _check_session(self) -> None:
        """Expiry, access rights, rate, quota: between PostKeyAuth and Post.

        `allowed_urls` are not enforced: the empty entries that the gateway adds allow everything.
        """
        session, now = self.session, self.gateway.clock()
        if session is None:
            return
        if session.is_inactive:
            self._fire("KeyExpired", "Attempted access from inactive key.", session.key_id)
            raise Failed("inactive", 403, "Key is inactive, please renew")
        if 1 <= session.expires < now:
            self._fire("KeyExpired", "Attempted access from expired key.", session.key_id)
            raise Failed("expired", 401, "Key has expired, please renew")
        if session.access_rights and self.definition.api_id not in session.access_rights:
            raise Failed("access-rights", 403, "Access to this API has been disallowed")
        if not self.definition.disable_rate_limit and self.gateway.state.rate_exceeded(session, now):
            self._fire("RatelimitExceeded", "Rate Limit Exceeded", session.key_id)
            raise Failed("rate", 429, "Rate Limit Exceeded")
        if not self.definition.disable_quota and self.gateway.state.quota_exceeded(session, now):
            self._fire("QuotaExceeded", "Key Quota Limit Exceeded", session.key_id)
            raise Failed("quota", 403, "Quota exceeded")

    def _remember(self) -> None:
        if self.session is not None:
            self.gateway.state.sessions[self.session.key_id] = self.session

    # Events

    def _auth_failed(self, key: str) -> None:
        self._fire("AuthFailure", "Auth Failure", key)

    def _fire(self, event: str, message: str, key: str) -> None:
        for payload in payloads(self.definition, event, message, key, self.request, self.gateway.clock()):
            self.exchange.events.append(payload)
            # The gateway logs a failure, and the request goes on.
            with contextlib.suppress(RpcError):
                self.gateway.dispatcher.dispatch_event(as_json(payload))
