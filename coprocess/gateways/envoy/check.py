"""One Check of ext_authz: the handlers of CustomKeyCheck decide, and may edit the request. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from coprocess.api.held import HeldHeaders, HeldRequest
from coprocess.api.moments import HookType
from coprocess.errors import BadMessage, CoprocessError, HandlerFailed, UnknownHook
from coprocess.gateways.envoy import dynamic_metadata, encoding, guard
from coprocess.gateways.envoy.call import Around, Traffic
from coprocess.gateways.envoy.chain import Chain
from coprocess.gateways.envoy.messages import Fields, name_of, request_of
from coprocess.gateways.envoy.wire import CheckRequest
from coprocess.loading.lifetime import Lifetime
from coprocess.runtime.answers import Answer, failure_answer
from coprocess.runtime.chained import NO_STEPS, PAUSE, Steps

if TYPE_CHECKING:
    from coprocess.gateways.envoy.wire import AttributeContext

#: google.rpc.Code.
_OK, _PERMISSION_DENIED, _UNAUTHENTICATED = 0, 7, 16
_UNAUTHORIZED = 401


class Check:
    """Answers one CheckRequest: `take` gives the steps, and when they are through, `reply` the answer."""

    __slots__ = (
        "_around",
        "_find_chain",
        "_max_headers",
        "_method",
        "_refusal",
        "_traffic",
        "chain",
        "lifetime",
    )

    def __init__(
        self,
        find_chain: Callable[[Mapping[str, str], str], Chain],
        around: Around,
        max_headers: int = 1000,
    ) -> None:
        self._find_chain = find_chain
        self._around = around
        self._max_headers = max_headers
        #: Of the request; None: it has not come so far.
        self.lifetime: Lifetime | None = None
        self.chain: Chain | None = None
        self._traffic: Traffic | None = None
        self._method = ""
        #: The reply, where it is given before the steps are through.
        self._refusal = b""

    def take(self, message: bytes) -> Steps:
        """The steps. Raises BadMessage."""
        try:
            asked = CheckRequest.FromString(message)
        except DecodeError:
            raise BadMessage("not an envoy.service.auth.v3.CheckRequest") from None
        attributes = asked.attributes
        try:
            said = attributes.context_extensions
            chain = self._find_chain({key: said[key] for key in said}, "")
            traffic = self._traffic = self._open(attributes, chain)
            self._method = traffic.request.method
            self.chain, self.lifetime = traffic.chain, traffic.lifetime
        except CoprocessError as error:
            # An RPC error would let the request in where the filter's failure mode allows it.
            self._refusal = _refused(error)
            return NO_STEPS
        if traffic.chain.reads_request or traffic.chain.chooses:
            return self._checked(traffic.before_upstream())
        return traffic.before_upstream()

    def _checked(self, steps: Steps) -> Steps:
        """The same, where they may raise, or want a body that does not come any more."""
        try:
            for need in steps:
                if need is PAUSE:
                    raise HandlerFailed(_NO_BODY)
                yield need
        except CoprocessError as error:
            self._refusal = _refused(error)

    def reply(self) -> bytes:
        """A serialized CheckResponse, which is never empty."""
        traffic = self._traffic
        if traffic is None or self._refusal:
            return self._refusal
        try:
            answer = traffic.answer
            if answer is None:
                return _allowed(traffic, self._method)
            return _denied(answer, traffic)
        except HandlerFailed as error:
            return _denied(traffic.fail(error), traffic)

    def _open(self, attributes: AttributeContext, chain: Chain) -> Traffic:
        if chain.of_checks is None:
            chain.of_checks = _only_checks(chain)
        chain = chain.of_checks
        http = attributes.request.http
        body = _Body(http)
        traffic = Traffic(_request(http, body, self._max_headers), chain, self._around)
        traffic.has_body = chain.reads_request and body.is_whole
        context = attributes.metadata_context
        if context.filter_metadata:
            traffic.metadata_source = lambda: dynamic_metadata.read_metadata(context)
        return traffic


def _request(http: AttributeContext.HttpRequest, body: _Body, max_headers: int) -> HeldRequest:
    """The request, as the attributes have it. Raises BadMessage."""
    values, headers = http.header_map.headers, http.headers
    if (count := max(len(values), len(headers))) > max_headers:
        raise BadMessage(f"{count} headers: max_headers is {max_headers}")
    if values:
        body.headers = fields = Fields(values)
        return request_of(fields, body.read)
    pairs = [(name_of(name), value) for name, value in headers.items() if name[:1] != ":"]
    if "Host" not in (name for name, _ in pairs):
        pairs.insert(0, ("Host", http.host))
    body.headers = held = HeldHeaders(pairs)
    return HeldRequest(http.method, http.path, held, scheme=http.scheme or "http", body_source=body.read)


class _Body:
    """What came of the body. It does not know its request, which knows it."""

    headers: HeldHeaders

    def __init__(self, http: AttributeContext.HttpRequest) -> None:
        self._http = http

    @cached_property
    def _came(self) -> bytes:
        return self._http.raw_body or self._http.body.encode()

    @property
    def is_whole(self) -> bool:
        """Whether all of it is here. Without a length, none at all may also be a filter that sends none."""
        headers = self.headers
        if headers.get(_PARTIAL, "false") == "true":
            return False
        is_empty = headers.get("Content-Length", "") in ("", "0") and "Transfer-Encoding" not in headers
        return bool(self._came) or is_empty

    def read(self) -> bytes:
        if not self.is_whole:
            raise RuntimeError(_NO_BODY)
        return self._came


def _only_checks(chain: Chain) -> Chain:
    """Raises UnknownHook."""
    others = [moment.name for moment, _ in chain.before if moment is not HookType.CustomKeyCheck]
    if chain.route.names is not None and (others or chain.after):
        there = ", ".join([*others, *(["Response"] if chain.after else [])])
        raise UnknownHook(f"ext_authz runs handlers of CustomKeyCheck only, and {there} are named")
    kept = tuple(each for each in chain.before if each[0] is HookType.CustomKeyCheck)
    if not kept:
        raise UnknownHook(
            "nothing is to run: no handler of CustomKeyCheck is loaded for this route, or named"
        )
    if len(kept) == len(chain.before):
        return chain
    return replace(chain, before=kept, after=())


def _allowed(traffic: Traffic, method: str) -> bytes:
    request = traffic.request
    if request.has_new_body:
        raise HandlerFailed("replaced the body: ext_authz cannot. Expected: ext_proc, for such a handler")
    content, edits = b"", 0
    if request.method != method:
        content += encoding.set_text_header(b":method", guard.method_bytes(request.method), _HEADERS)
    if request.has_new_path or request.has_new_query:
        content += encoding.set_text_header(b":path", guard.target_of(request).encode(), _HEADERS)
    headers = request.headers
    edited = headers.edited
    for name in sorted(edited) if len(edited) > 1 else edited:
        key = guard.handlers_name(name)
        if key is None:
            continue
        edits += 1
        values = headers.getall(name)
        if not values:
            content += encoding.field(_HEADERS_TO_REMOVE, key)
            continue
        # One line: of several with one name, Envoy takes the last.
        value = values[0]
        if len(values) > 1:
            value = (_COOKIE_SEPARATOR if name == "Cookie" else ", ").join(values)
        content += encoding.set_text_header(key, _text(guard.value_bytes(name, value)), _HEADERS)
    if edits > guard.MAX_EDITS:
        raise HandlerFailed(f"left {edits} header edits: this gateway takes {guard.MAX_EDITS}")
    return _reply(_OK, "", encoding.field(_OK_RESPONSE, content), traffic)


def _denied(answer: Answer, traffic: Traffic | None, text: str = "") -> bytes:
    content = encoding.field(1, encoding.number_field(1, guard.status(answer.status)))
    for name, value in guard.answer_headers(answer.headers):
        # Without `append`: with it, Envoy drops it. Each is a line.
        content += encoding.set_text_header(name, _text(value), _HEADERS)
    if answer.status not in guard.BODYLESS and answer.body:
        content += encoding.field(3, _text(answer.body))
    code = _UNAUTHENTICATED if answer.status == _UNAUTHORIZED else _PERMISSION_DENIED
    if traffic is not None:
        text = traffic.failure_text
    return _reply(code, text, encoding.field(_DENIED_RESPONSE, content), traffic)


def _refused(error: CoprocessError) -> bytes:
    return _denied(failure_answer(error.status), None, str(error))


def _reply(code: int, text: str, answer: bytes, traffic: Traffic | None) -> bytes:
    """A CheckResponse. Its status is always there: an empty reply lets in."""
    if code == _OK and not text:
        reply = _STATUS_OK + answer
    else:
        status = encoding.number_field(1, code)
        if text:
            status += encoding.field(2, guard.details(text).encode())
        reply = encoding.field(1, status) + answer
    if traffic is None:
        return reply
    session = traffic.session if traffic.has_session else None
    told = dynamic_metadata.encoded(traffic.known_metadata, {}, session, is_new=True)
    return reply + encoding.field(_DYNAMIC_METADATA, told) if told else reply


def _text(value: bytes) -> bytes:
    """`value`, where it is UTF-8: ext_authz takes nothing else. Raises HandlerFailed."""
    try:
        value.decode()
    except UnicodeDecodeError:
        raise HandlerFailed("left bytes that are not UTF-8: ext_authz takes text only") from None
    return value


# Fields of CheckResponse, and of OkHttpResponse.
_DENIED_RESPONSE, _OK_RESPONSE, _DYNAMIC_METADATA = 2, 3, 4
#: In both answers.
_HEADERS = 2
_HEADERS_TO_REMOVE = 5
#: CheckResponse.status, which must be there.
_STATUS_OK = encoding.field(1, b"")
_PARTIAL = "X-Envoy-Auth-Partial-Body"
_COOKIE_SEPARATOR = "; "
_NO_BODY = (
    "reads a body, and Envoy sent none, or a part. Expected: with_request_body in the filter, large enough"
)
