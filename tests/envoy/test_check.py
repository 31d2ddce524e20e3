"""A Check of one handler is a call as any other. It ends as it does in steps, which several are run in."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider

from coprocess import CustomKeyCheck, Event, Reject, respond
from coprocess.api.messages import Reply
from coprocess.gateways.envoy import checked, encoding, skimmed, wire
from coprocess.gateways.envoy.chain import Chain
from coprocess.gateways.envoy.gateway import EnvoyGateway
from coprocess.process.tracing import CallTracing
from coprocess.runtime.in_process_rpc import ThreadRpc
from coprocess.runtime.registration import GatewayOptions
from coprocess.runtime.service import Service
from coprocess.runtime.service_options import ServiceOptions
from tests.envoy.drive import GET, Pairs, check_request
from tests.envoy.world import serving, table_of
from tests.server import PATIENCE_S, Client, until


class Asked(NamedTuple):
    """A service, and its gateway."""

    service: Service
    gateway: EnvoyGateway

    def begin(self, request: wire.CheckRequest | bytes) -> ThreadRpc:
        rpc = ThreadRpc()
        raw = request if isinstance(request, bytes) else request.SerializeToString()
        rpc.method, rpc.payload = wire.CHECK, raw
        self.service.methods.unary[wire.CHECK](rpc)
        return rpc

    def ask(self, request: wire.CheckRequest | bytes) -> bytes:
        return reply_to(self.begin(request))

    def counts(self) -> list[tuple[object, ...]]:
        """How calls ended, by hook and API."""
        return sorted(
            (*label, sum(each.durations), each.failed, each.timed_out, each.shed)
            for label, each in self.service.gates.totals().items()
        )


def reply_to(rpc: ThreadRpc) -> bytes:
    assert rpc.wait(PATIENCE_S)
    # An RPC error would let in, where the filter's failure mode allows it. So would an empty reply.
    assert rpc.failure is None
    assert rpc.reply
    return rpc.reply


def code_of(raw: bytes) -> int:
    """0: it lets in. Else the status that the client gets."""
    reply = wire.CheckResponse.FromString(raw)
    assert reply.HasField("status")
    if reply.status.code == 0:
        assert reply.WhichOneof("http_response") == "ok_response"
        return 0
    return int(reply.denied_response.status.code)


@contextmanager
def asking(*handlers: Callable[..., Any], **options: Any) -> Iterator[Asked]:
    gateway = EnvoyGateway(table_of(*handlers), GatewayOptions())
    service = Service(gateway, ServiceOptions(**{"timeout_s": PATIENCE_S, **options}))
    service.start()
    try:
        yield Asked(service, gateway)
    finally:
        service.drain(2.0)
        service.stop(2.0)


def in_steps(asked: Asked, said: Mapping[str, str] | None = None) -> None:
    """Have `asked` run its one handler as it runs several."""
    chain: Chain = asked.gateway.chain(said or {}, "")
    chain.of_checks = checked._only_checks(chain)
    assert chain.of_checks.one_check is not None
    chain.of_checks.one_check = None


def request_of(
    headers: Pairs = GET, method: str = "", path: str = "", *, raw: bool = True, **more: Any
) -> wire.CheckRequest:
    """As Envoy sends it, where `method` and `path` are given: it tells them twice."""
    request = check_request(headers if raw else (), **more)
    http = request.attributes.request.http
    http.method, http.path = method, path
    if not raw:
        http.ClearField("header_map")
        http.host, http.scheme = "example.test", "https"
        http.headers.update({name: str(value) for name, value in headers})
    return request


def seen(request: Any) -> str:
    """All that a handler can read of a request, as the value of a header."""
    parts = (request.method, request.path, request.query_string, request.target, request.scheme, request.url)
    return quote(repr((parts, request.headers.pairs())))


# What a handler does, by name; each is given what it may ask for.
Doing = Callable[[Any, Any, Any], Any]


def _set(name: str, value: str) -> Doing:
    return lambda request, session, metadata: request.headers.__setitem__(name, value)


def _assign(name: str, value: str) -> Doing:
    return lambda request, session, metadata: setattr(request, name, value)


def _raise(error: BaseException) -> Doing:
    def do(request: Any, session: Any, metadata: Any) -> None:
        raise error

    return do


def _look(request: Any, session: Any, metadata: Any) -> None:
    request.headers["X-Seen"] = seen(request)


NAMES = st.sampled_from(["X-A", "x-b", "Cookie", "Host", "Content-Length", "Authorization"])
VALUES = st.one_of(
    st.sampled_from(["", "plain", "ü", "\udcff", "x" * 90, "y" * 200]), st.text("ab \t\u00e9", max_size=140)
)
TEXTS = st.one_of(
    st.sampled_from(["token", "t" * 100, "\udcff", "ü"]), st.text("xyz", min_size=1, max_size=130)
)
ALLOWED = st.fixed_dictionaries(
    {},
    optional={
        "alias": st.sampled_from(["", "me"]),
        "tags": st.lists(st.sampled_from(["a", "b"]), max_size=2),
        "metadata": st.dictionaries(st.sampled_from(["token", "k"]), st.sampled_from(["", "v"]), max_size=2),
        "expires_at": st.sampled_from([0, 1, 1 << 40]),
        "rate": st.sampled_from([0.0, 1e6]),
    },
)
DOINGS: st.SearchStrategy[list[Doing]] = st.lists(
    st.one_of(
        st.builds(_set, NAMES, VALUES),
        st.builds(lambda name, value: lambda r, s, m: r.headers.add(name, value), NAMES, VALUES),
        st.builds(lambda name: lambda r, s, m: r.headers.pop(name, None), NAMES),
        st.builds(_assign, st.just("method"), st.sampled_from(["POST", "GET"])),
        st.builds(_assign, st.just("path"), st.sampled_from(["/a", "/new", "/ä"])),
        st.builds(
            lambda value: lambda r, s, m: r.query.__setitem__("q", value), st.sampled_from(["1", "a b"])
        ),
        st.builds(lambda token, more: lambda r, s, m: s.allow(token, **more), TEXTS, ALLOWED),
        st.builds(
            lambda key, value: lambda r, s, m: m.__setitem__(key, value),
            st.sampled_from(["token", "k"]),
            TEXTS,
        ),
        st.just(_look),
        st.just(_assign("body", "new")),
        st.builds(
            _raise, st.sampled_from([Reject(401, "no"), Reject(418, "tea"), ValueError("x"), SystemExit()])
        ),
        st.builds(lambda status: lambda r, s, m: respond(status, "here"), st.sampled_from([200, 204, 403])),
    ),
    max_size=5,
)
REQUESTS = st.builds(
    request_of,
    st.lists(
        st.sampled_from(
            [(":scheme", "https"), ("x-a", "1"), ("x-a", "2"), ("cookie", "a=b"), ("x-raw", "é")]
        ),
        max_size=4,
    ).map(lambda more: [*GET, *more]),
    st.sampled_from(["", "GET"]),
    st.sampled_from(["", "/a?b=1"]),
    raw=st.booleans(),
)


@pytest.mark.parametrize("is_async", [False, True])
def test_it_ends_the_same_way_in_steps(is_async: bool) -> None:
    doings: list[Doing] = []
    told: list[str] = []

    def act(request: Any, session: Any, metadata: Any) -> Any:
        for do in doings:
            answer = do(request, session, metadata)
            if isinstance(answer, Reply):
                return answer
        return None

    async def act_async(request: Any, session: Any, metadata: Any) -> Any:
        return act(request, session, metadata)

    handler = CustomKeyCheck(name="check")(act_async if is_async else act)

    @Event
    def tell(event: Any) -> None:
        told.append(event.type)

    with asking(handler, tell) as one, asking(handler, tell) as steps:
        in_steps(steps)

        def events_of(asked: Asked) -> list[str]:
            until(lambda: not asked.service.in_flight)
            asked.service.events.wait(time.monotonic() + PATIENCE_S)
            found, told[:] = list(told), []
            return found

        @settings(max_examples=100, suppress_health_check=list(HealthCheck), deadline=None, database=None)
        @given(REQUESTS, DOINGS)
        def ends_the_same(request: wire.CheckRequest, to_do: list[Doing]) -> None:
            doings[:] = to_do
            replies, events = [], []
            for asked in (one, steps):
                replies.append(asked.ask(request))
                events.append(events_of(asked))
            assert replies[0] == replies[1]
            assert code_of(replies[0]) >= 0
            assert events[0] == events[1]

        ends_the_same()
        assert one.counts() == steps.counts()


def test_what_overruns_closes_and_what_it_does_later_is_nobodys() -> None:
    go_on = threading.Event()
    ended: list[str] = []

    @CustomKeyCheck(timeout=0.1)
    def check_key(request: Any, session: Any) -> None:
        go_on.wait(PATIENCE_S)
        session.allow("token")
        ended.append("it has ended")

    with asking(check_key) as asked:
        assert code_of(reply_to(begin_elsewhere(asked))) == 500
        go_on.set()
        until(lambda: bool(ended) and not asked.service.running)
        assert asked.counts() == [("CustomKeyCheck", "check_key", "", "", 1, 0, 1, 0)]


def test_one_that_finds_its_handler_full_closes() -> None:
    go_on, is_in = threading.Event(), threading.Event()

    @CustomKeyCheck(concurrency=1)
    def check_key(session: Any) -> None:
        is_in.set()
        go_on.wait(PATIENCE_S)
        session.allow("token")

    with asking(check_key, queue_size=1) as asked:
        first = begin_elsewhere(asked)
        assert is_in.wait(PATIENCE_S)
        waits = asked.begin(request_of())
        assert code_of(asked.ask(request_of())) == 503
        go_on.set()
        assert [code_of(reply_to(rpc)) for rpc in (first, waits)] == [0, 0]


def test_a_failure_closes_with_the_status_that_was_set() -> None:
    @CustomKeyCheck
    def check_key(session: Any) -> None:
        session.allow("token")
        raise ValueError("a secret")

    with asking(check_key, failure_status=521) as asked:
        raw = asked.ask(request_of())
        assert code_of(raw) == 521
        assert b"a secret" not in raw


@pytest.mark.parametrize("is_async", [False, True])
def test_rate_and_quota_are_asked_for_in_another_thread(is_async: bool) -> None:
    @CustomKeyCheck
    def check_key(session: Any) -> None:
        ran_in.append(threading.current_thread())
        session.allow("token", quota_max=2)

    @CustomKeyCheck(name="check_key")
    async def check_key_async(session: Any) -> None:
        ran_in.append(threading.current_thread())
        session.allow("token", quota_max=2)

    asked_in: list[threading.Thread] = []
    ran_in: list[threading.Thread] = []

    with asking(check_key_async if is_async else check_key) as asked:
        limited = asked.gateway.limited

        def watched(session: Any, api_id: str) -> str:
            asked_in.append(threading.current_thread())
            return limited(session, api_id)

        asked.gateway.limited = watched  # type: ignore[method-assign]  # seen by the test
        assert [code_of(asked.ask(request_of())) for _ in range(3)] == [0, 0, 403]
        assert len(asked_in) == len(ran_in) == 3
        assert not {*asked_in} & {*ran_in}


@pytest.mark.parametrize("is_async", [False, True])
def test_one_that_is_traced_is_asked_for_rate_and_quota(is_async: bool) -> None:
    @CustomKeyCheck
    def check_key(session: Any) -> None:
        session.allow("token", quota_max=1)

    @CustomKeyCheck(name="check_key")
    async def check_key_async(session: Any) -> None:
        session.allow("token", quota_max=1)

    with asking(check_key_async if is_async else check_key) as asked:
        tracing = CallTracing(TracerProvider().get_tracer("test"))
        asked.service.use_tracing(tracing)
        handle = tracing.traced(asked.service.methods.unary[wire.CHECK])
        codes = []
        for _ in range(2):
            rpc = ThreadRpc()
            rpc.method, rpc.payload = wire.CHECK, request_of().SerializeToString()
            handle(rpc)
            codes.append(code_of(reply_to(rpc)))
        assert codes == [0, 403]
        until(lambda: not asked.service.in_flight)
        assert [count[5] for count in asked.counts()] == [0]


def test_a_store_that_fails_lets_nobody_pass() -> None:
    @CustomKeyCheck
    def check_key(session: Any) -> None:
        session.allow("token", rate=100)

    with asking(check_key) as asked:

        def fails(session: Any, api_id: str) -> str:
            raise MemoryError

        asked.gateway.limited = fails  # type: ignore[method-assign]  # as above
        assert code_of(asked.ask(request_of())) == 500


def test_an_async_one_that_is_cancelled_closes() -> None:
    is_in = threading.Event()

    @CustomKeyCheck
    async def check_key(session: Any) -> None:
        session.allow("token")
        is_in.set()
        await asyncio.sleep(PATIENCE_S)

    with asking(check_key) as asked:
        rpc = asked.begin(request_of())
        assert is_in.wait(PATIENCE_S)
        asked.service.stop(2.0)
        assert code_of(reply_to(rpc)) != 0


def test_several_that_are_read_on_the_loop_do_not_hold_it_up() -> None:
    """Once an async Check ran, the loop of the handlers reads calls."""
    holds = threading.Event()
    is_in = threading.Event()

    @CustomKeyCheck
    async def quick(session: Any) -> None:
        session.allow("token")

    @CustomKeyCheck
    def first(session: Any) -> None:
        session.allow("token")
        is_in.set()
        holds.wait(PATIENCE_S)

    @CustomKeyCheck
    def second() -> None:
        pass

    with serving(quick, first, second) as running, Client(running.address) as client:
        ask = client.channel.unary_unary(
            wire.CHECK, wire.CheckRequest.SerializeToString, wire.CheckResponse.FromString
        )

        def asked(names: str) -> wire.CheckRequest:
            return check_request(extensions={"x-coprocess-auth-check": names})

        for _ in range(5):
            assert ask(asked("quick"), timeout=PATIENCE_S).status.code == 0
        held = ask.future(asked("first,second"), timeout=PATIENCE_S)
        assert is_in.wait(PATIENCE_S)
        assert ask(asked("quick"), timeout=PATIENCE_S).status.code == 0
        assert not held.done()
        holds.set()
        assert held.result().status.code == 0


def test_skimmed_messages_have_the_numbers_of_envoys() -> None:
    attributes = wire.AttributeContext.DESCRIPTOR
    messages = attributes.nested_types_by_name
    envoys: dict[str, Any] = {
        "Check": wire.CheckRequest.DESCRIPTOR,
        "Attributes": attributes,
        "Request": messages["Request"],
        "Http": messages["HttpRequest"],
        "Entry": attributes.fields_by_name["context_extensions"].message_type,
    }
    assert envoys.keys() == skimmed.MESSAGES.keys()
    for name, fields in skimmed.MESSAGES.items():
        for field, number, _, _ in fields:
            assert envoys[name].fields_by_name[field].number == number


def test_what_a_handler_reads_is_what_came() -> None:
    read: list[Any] = []

    @CustomKeyCheck
    def check_key(request: Any, session: Any, metadata: Any) -> None:
        read[:] = [request.path, request.query_string, request.scheme, request.target, request.raw_body]
        read.append(request.headers["Host"])
        read.append(metadata.get("jwt:sub"))
        session.allow("token")

    asked_for = request_of([*GET, ("content-length", "3")], "GET", "/a?b=1")
    http = asked_for.attributes.request.http
    asked_for.attributes.metadata_context.filter_metadata["jwt"].update({"sub": "me"})
    with asking(check_key) as asked:
        # Without `pack_as_bytes`, Envoy has any bytes as text.
        for body in (b"abc", b"\xff\xfe\xfd"):
            http.body = "abc"
            raw = asked_for.SerializeToString().replace(b"abc", body)
            assert code_of(asked.ask(raw)) == 0
            assert read == ["/a", "b=1", "http", "/a?b=1", body, "example.test", "me"]
        # Of what `path` cannot hold, it has a mark.
        http.path = "/!?"
        http.header_map.headers[1].raw_value = b"/\xff?"
        assert code_of(asked.ask(asked_for)) == 0
        assert read[0] == "/\xff"
        assert read[3] == "/\xff?"


def test_what_is_broken_within_closes() -> None:
    @CustomKeyCheck
    def reads(request: Any, session: Any) -> None:
        request.headers.get("X-A")
        session.allow("token")

    with asking(reads) as asked:
        for broken in (
            _nested(1, _nested(4, _nested(2, _nested(2, b"GET") + _nested(13, b"\x0a\xff")))),
            _nested(1, _nested(4, _nested(2, _nested(2, b"GET") + _nested(13, b"\x0a\x00" * 1001)))),
            _nested(1, _nested(10, b"\x0a\xff")),
            _nested(1, _nested(4, _nested(2, _nested(3, b"\x0a\xff")))),
        ):
            assert code_of(asked.ask(broken)) == 500
        assert code_of(asked.ask(b"\xff")) == 500


def _nested(number: int, content: bytes) -> bytes:
    return encoding.field(number, content)


def begin_elsewhere(asked: Asked) -> ThreadRpc:
    """Begin a Check whose handler holds the thread that it is begun in."""
    rpc = ThreadRpc()
    rpc.method, rpc.payload = wire.CHECK, request_of().SerializeToString()
    asked.service.in_thread(lambda: asked.service.methods.unary[wire.CHECK](rpc))
    return rpc
