"""One Check of ext_authz: the handlers of CustomKeyCheck decide, and may edit the request. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from coprocess.api.held import HeldHeaders, HeldRequest
from coprocess.api.http import canonical_name
from coprocess.api.moments import HookType
from coprocess.errors import BadMessage, CoprocessError, HandlerFailed, Status, UnknownHook
from coprocess.gateways.envoy import dynamic_metadata, guard
from coprocess.gateways.envoy.call import BODY, Around, Traffic
from coprocess.gateways.envoy.chain import Chain
from coprocess.gateways.envoy.messages import Fields, name_of, request_of
from coprocess.gateways.envoy.wire import CheckRequest, CheckResponse
from coprocess.runtime.answers import Answer, failure_answer
from coprocess.runtime.chained import Steps

if TYPE_CHECKING:
    from coprocess.gateways.envoy.wire import AttributeContext

#: google.rpc.Code.
_OK, _PERMISSION_DENIED, _UNAUTHENTICATED = 0, 7, 16
_UNAUTHORIZED = 401


class Check:
    """Answers one CheckRequest."""

    def __init__(self, find_chain: Callable[[Mapping[str, str], str], Chain], around: Around) -> None:
        self._find_chain = find_chain
        self._around = around

    def take(self, message: bytes) -> Steps:
        """The steps; they end with a serialized CheckResponse, which is never empty."""
        try:
            asked = CheckRequest.FromString(message)
        except DecodeError:
            raise BadMessage("not an envoy.service.auth.v3.CheckRequest") from None
        attributes = asked.attributes
        try:
            chain = self._find_chain(dict(attributes.context_extensions), "")
            traffic, came = self._traffic(attributes, chain)
            steps = traffic.before_upstream()
        except CoprocessError as error:
            # An RPC error would let the request in where the filter's failure mode allows it.
            return _refused(error)
        value = None
        try:
            while True:
                need = steps.send(value)
                if need is BODY:
                    raise HandlerFailed(_NO_BODY)
                value = yield need
        except StopIteration as end:
            answer: Answer | None = end.value
        except CoprocessError as error:
            return _refused(error)
        try:
            if answer is None:
                return _allowed(traffic, came)
            return _denied(answer, traffic)
        except HandlerFailed as error:
            return _denied(traffic.fail(error), traffic)

    def _traffic(self, attributes: AttributeContext, chain: Chain) -> tuple[Traffic, _Came]:
        others = [moment.name for moment, _ in chain.before if moment is not HookType.CustomKeyCheck]
        if chain.route.names is not None and (others or chain.after):
            there = ", ".join([*others, *(["Response"] if chain.after else [])])
            raise UnknownHook(f"ext_authz runs handlers of CustomKeyCheck only, and {there} are named")
        chain = _only_checks(chain)
        came = _Came(attributes)
        traffic = Traffic(came.request, chain, self._around)
        traffic.has_body = came.has_body
        context = attributes.metadata_context
        if context.ByteSize():
            traffic.metadata_source = lambda: dynamic_metadata.read_metadata(context)
        return traffic, came


class _Came:
    """The request, as the attributes have it."""

    def __init__(self, attributes: AttributeContext) -> None:
        http = attributes.request.http
        self.encoded: Mapping[str, bytes] = {}
        self._body = http.raw_body or http.body.encode()
        headers = http.headers
        if http.header_map.headers:
            fields = Fields(http.header_map.headers)
            self.encoded = fields.encoded
            partial = fields.headers.get(_PARTIAL, "false")
            length = fields.headers.get("Content-Length", "")
            is_chunked = "Transfer-Encoding" in fields.headers
            self.request = request_of(fields, self._read)
        else:
            pairs = [(name_of(name), value) for name, value in headers.items() if name[:1] != ":"]
            if "Host" not in (name for name, _ in pairs):
                pairs.insert(0, ("Host", http.host))
            held = HeldHeaders(pairs)
            partial = held.get(_PARTIAL, "false")
            length = held.get("Content-Length", "")
            is_chunked = "Transfer-Encoding" in held
            self.request = HeldRequest(
                http.method, http.path, held, scheme=http.scheme or "http", body_source=self._read
            )
        self.method = self.request.method
        is_whole = partial != "true"
        is_empty = length in ("", "0") and not is_chunked
        #: Whether all of it is here. Without a length, none at all may also be a filter that sends none.
        self.has_body = is_whole and (bool(self._body) or is_empty)

    def _read(self) -> bytes:
        if not self.has_body:
            raise RuntimeError(_NO_BODY)
        return self._body


def _only_checks(chain: Chain) -> Chain:
    kept = tuple(each for each in chain.before if each[0] is HookType.CustomKeyCheck)
    if not kept:
        raise UnknownHook(
            "nothing is to run: no handler of CustomKeyCheck is loaded for this route, or named"
        )
    if len(kept) == len(chain.before):
        return chain
    return Chain(kept, (), chain.spec, chain.route, chain.table, chain.listeners)


def _allowed(traffic: Traffic, came: _Came) -> bytes:
    request = traffic.request
    if request.has_new_body:
        raise HandlerFailed("replaced the body: ext_authz cannot. Expected: ext_proc, for such a handler")
    reply = CheckResponse()
    reply.status.code = _OK
    ok = reply.ok_response
    ok.SetInParent()
    edits = 0
    if request.method != came.method:
        _set(ok.headers, ":method", request.method)
    if request.has_new_path or request.has_new_query:
        _set(ok.headers, ":path", guard.target_of(request))
    headers = request.headers
    for name in sorted(headers.edited):
        if canonical_name(name) in guard.NOT_FOR_HANDLERS:
            continue
        edits += 1
        key = guard.name_bytes(name).decode()
        values = headers.getall(name)
        if not values:
            ok.headers_to_remove.append(key)
            continue
        # One line: of several with one name, Envoy takes the last.
        _set(ok.headers, key, (_COOKIE_SEPARATOR if name == "Cookie" else ", ").join(values))
    if edits > guard.MAX_EDITS:
        raise HandlerFailed(f"left {edits} header edits: this gateway takes {guard.MAX_EDITS}")
    _tell(reply, traffic)
    return reply.SerializeToString()


def _denied(answer: Answer, traffic: Traffic | None) -> bytes:
    reply = CheckResponse()
    reply.status.code = _UNAUTHENTICATED if answer.status == _UNAUTHORIZED else _PERMISSION_DENIED
    denied = reply.denied_response
    denied.status.code = guard.status(answer.status)  # type: ignore[assignment]  # an open enum
    for name, value in guard.answer_headers(answer.headers):
        # Without `append`: with it, Envoy drops it. Each is a line.
        denied.headers.add().header.key = name.decode()
        denied.headers[-1].header.value = _text(value)
    if answer.status not in guard.BODYLESS:
        try:
            denied.body = answer.body.decode()
        except UnicodeDecodeError:
            raise HandlerFailed(
                "responded with bytes that are not UTF-8: ext_authz takes text only"
            ) from None
    if traffic is not None:
        if traffic.failure_text:
            reply.status.message = guard.details(traffic.failure_text)
        _tell(reply, traffic)
    return reply.SerializeToString()


def _refused(error: CoprocessError) -> bytes:
    reply = CheckResponse.FromString(_denied(failure_answer(error.status), None))
    reply.status.message = guard.details(str(error))
    if error.status is Status.UNAVAILABLE:
        raise error
    return reply.SerializeToString()


def _set(headers: object, name: str, value: str) -> None:
    entry = headers.add().header  # type: ignore[attr-defined]  # protobuf's container of messages
    entry.key = name
    entry.value = _text(guard.value_bytes(name, value, {}))


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise HandlerFailed("left a header value that is not UTF-8: ext_authz takes text only") from None


def _tell(reply: CheckResponse, traffic: Traffic) -> None:
    """What goes to other filters."""
    entries = {key: value for key, value in (traffic.known_metadata or {}).items() if key != "token"}
    session = dynamic_metadata.session_entries(traffic.session) if traffic.has_session else {}
    told = dynamic_metadata.encoded(
        {dynamic_metadata.NAMESPACE: entries, dynamic_metadata.SESSION_NAMESPACE: session}
    )
    if told:
        reply.dynamic_metadata.ParseFromString(told)


_PARTIAL = "X-Envoy-Auth-Partial-Body"
_COOKIE_SEPARATOR = "; "
_NO_BODY = (
    "reads a body, and Envoy sent none, or a part. Expected: with_request_body in the filter, large enough"
)
