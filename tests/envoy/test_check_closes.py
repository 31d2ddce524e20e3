"""Whatever a handler, a filter or a store does: a Check is answered, and closes where it is not decided."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from coprocess import CustomKeyCheck, Reject, respond
from coprocess.gateways.envoy import limit_asks
from coprocess.gateways.envoy.check_reply import denied
from coprocess.runtime.answers import error_answer
from coprocess.runtime.in_process_rpc import ThreadRpc
from coprocess.transport.engines import is_compiled
from tests.envoy.drive import GET, Pairs, Stream
from tests.envoy.test_check import Asked, asking, begin_elsewhere, code_of, in_steps, reply_to, request_of
from tests.server import PATIENCE_S, until

HIDDEN: Pairs = [("authorization", "key")]


@contextmanager
def asked_both_ways(*handlers: Callable[..., Any], **options: Any) -> Iterator[list[Asked]]:
    """As one call, and in steps."""
    with asking(*handlers, **options) as one, asking(*handlers, **options) as steps:
        in_steps(steps)
        yield [one, steps]


def test_a_path_that_a_filter_hides_is_the_one_that_it_tells_apart() -> None:
    seen: list[Any] = []

    @CustomKeyCheck
    def check_key(request: Any, session: Any) -> None:
        seen[:] = [request.path, request.query_string, request.headers["Host"], request.scheme]
        if request.path.startswith("/admin"):
            raise Reject(403, "no")
        session.allow("token")

    with asking(check_key) as asked:
        request = request_of(HIDDEN)
        http = request.attributes.request.http
        http.host, http.scheme, http.method = "example.test", "https", "GET"
        for http.path, code, query in (
            ("/admin/x", 403, ""),
            ("/admin/x!", 403, ""),
            ("/admin/x?!", 403, "!"),
            ("/a!b?c=1", 0, "c=1"),
        ):
            assert code_of(asked.ask(request)) == code
            assert seen == [http.path.partition("?")[0], query, "example.test", "https"]


@pytest.mark.skipif(is_compiled(), reason="compiled code takes no object of a test")
def test_metadata_that_changes_while_a_denial_is_written_does_not_stop_it() -> None:
    """A handler whose time is over still edits it."""

    class Changing:
        @property
        def _metadata(self) -> Any:
            raise RuntimeError("dictionary changed size during iteration")

        failure_text = ""

    changing: Any = Changing()
    assert code_of(denied(error_answer(403, "no"), changing)) == 403


@pytest.mark.parametrize("what", ["metadata", "session"])
def test_an_overrun_that_edits_what_is_told_is_answered_and_gives_its_place_back(what: str) -> None:
    is_in, is_over = threading.Event(), threading.Event()
    interval_s = sys.getswitchinterval()

    @CustomKeyCheck(timeout=0.1, concurrency=1)
    def check_key(session: Any, metadata: Any) -> None:
        session.allow("token")
        is_in.set()
        edited = metadata if what == "metadata" else session.metadata
        for number in itertools.count():
            if is_over.is_set():
                return
            edited[f"k{number % 3000}"] = "v"
            edited.pop(f"k{(number + 1500) % 3000}", None)

    sys.setswitchinterval(1e-4)
    try:
        with asking(check_key) as asked:
            first = begin_elsewhere(asked)
            assert is_in.wait(PATIENCE_S)
            waits = asked.begin(request_of())
            raw = reply_to(first)
            assert code_of(raw) == 500
            assert b"coprocess" not in raw
            is_over.set()
            assert code_of(reply_to(waits)) in (0, 500)
            until(lambda: not asked.service.in_flight)
    finally:
        is_over.set()
        sys.setswitchinterval(interval_s)


def test_a_place_goes_on_where_the_answer_of_an_overrun_fails() -> None:
    is_in, is_over = threading.Event(), threading.Event()

    @CustomKeyCheck(timeout=0.1, concurrency=1)
    def check_key(session: Any) -> None:
        session.allow("token")
        is_in.set()
        if not is_over.is_set():
            is_over.wait(PATIENCE_S)

    with asking(check_key) as asked:
        time_out = asked.service.failures.time_out

        def fails(call: Any) -> None:
            if is_over.is_set():
                time_out(call)
                return
            is_over.set()
            raise RuntimeError

        asked.service.failures.time_out = fails  # type: ignore[method-assign]  # what goes wrong
        begin_elsewhere(asked)
        assert is_in.wait(PATIENCE_S)
        assert code_of(reply_to(asked.begin(request_of()))) in (0, 500)
        until(lambda: not asked.service.in_flight)


@pytest.mark.parametrize("is_async", [False, True])
def test_what_is_wrong_in_a_session_fails_where_it_is_assigned(is_async: bool) -> None:
    wrong: list[tuple[str, Any]] = []
    told: list[str] = []

    def assign(session: Any) -> None:
        session.allow("token")
        name, value = wrong[0]
        try:
            setattr(session, name, value)
        except (TypeError, ValueError) as error:
            told.append(str(error))
            raise

    @CustomKeyCheck(name="check")
    def check_key(session: Any) -> None:
        assign(session)

    @CustomKeyCheck(name="check")
    async def check_key_async(session: Any) -> None:
        assign(session)

    with asked_both_ways(check_key_async if is_async else check_key) as ways:
        for wrong[:] in (
            [("token", 5)],
            [("token", b"x")],
            [("alias", b"x")],
            [("expires", "x")],
            [("rate", "x")],
            [("rate", float("nan"))],
            [("quota_max", "x")],
            [("org_id", 5)],
            [("is_inactive", "no")],
        ):
            for asked in ways:
                assert code_of(asked.ask(request_of())) == 500
                assert f"session.{wrong[0][0]} is" in told.pop()
        for name in ("token", "alias"):
            wrong[:] = [(name, "\ud800")]
            for asked in ways:
                assert code_of(asked.ask(request_of())) == 500


_NO_DOUBLE = pytest.mark.skipif(is_compiled(), reason="compiled code takes no function from outside")


@pytest.mark.parametrize(
    "where",
    [
        pytest.param("steps", marks=_NO_DOUBLE),
        pytest.param("reply", marks=_NO_DOUBLE),
        "message",
    ],
)
def test_what_this_code_raises_is_a_denial(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    @CustomKeyCheck
    def check_key(session: Any) -> None:
        session.allow("token")

    def fails(*given: Any, **more: Any) -> Any:
        raise RuntimeError("a secret")

    place = {
        "steps": "coprocess.gateways.envoy.call.Traffic._admits",
        "reply": "coprocess.gateways.envoy.check_reply._allowed",
        "message": "coprocess.gateways.envoy.gateway.open_check",
    }[where]
    with asking(check_key) as asked:
        in_steps(asked)
        monkeypatch.setattr(place, fails)
        raw = asked.ask(request_of())
        assert code_of(raw) == 500
        assert b"a secret" not in raw


def test_a_body_that_the_filter_does_not_send_is_not_taken_for_none() -> None:
    read: list[bytes] = []

    @CustomKeyCheck
    def check_key(request: Any, session: Any) -> None:
        read.append(request.raw_body)
        session.allow("token")

    def asked_for(method: str, *more: tuple[str, str], body: bytes = b"", raw: bool = True) -> Any:
        return request_of([*HIDDEN, *more], method, "/", raw=raw, body=body)

    empty, whole = ("content-length", "0"), ("x-envoy-auth-partial-body", "false")
    with asked_both_ways(check_key) as ways:
        for asked, raw in itertools.product(ways, (True, False)):
            for request in (
                asked_for("POST", raw=raw),
                asked_for("PUT", ("content-length", "5"), raw=raw),
                # A client may say so, too.
                asked_for("POST", whole, raw=raw),
                asked_for("POST", ("x-envoy-auth-partial-body", "true"), body=b"par", raw=raw),
            ):
                assert code_of(asked.ask(request)) == 500
            assert not read
            for request, body in (
                (asked_for("GET", raw=raw), b""),
                (asked_for("DELETE", raw=raw), b""),
                (asked_for("POST", empty, raw=raw), b""),
                (asked_for("POST", whole, body=b"abc", raw=raw), b"abc"),
            ):
                assert code_of(asked.ask(request)) == 0
                assert read.pop() == body


def test_a_text_that_may_hide_bytes_of_the_body_is_not_the_body() -> None:
    """Without `pack_as_bytes`, `adm\\xffin` was `adm!in` to a handler that looks for `admin`, and went on."""

    @CustomKeyCheck
    def check_key(request: Any, session: Any) -> None:
        assert b"admin" not in request.raw_body
        session.allow("token")

    with asked_both_ways(check_key) as ways:
        for asked in ways:
            as_text = request_of(HIDDEN, "POST", "/")
            for body, code in (("adm!in", 500), ("user", 0), ("ü", 0)):
                as_text.attributes.request.http.body = body
                assert code_of(asked.ask(as_text)) == code
            assert code_of(asked.ask(request_of(HIDDEN, "POST", "/", body=b"adm!in"))) == 0


def test_a_message_that_is_none_closes() -> None:
    @CustomKeyCheck
    def check_key(session: Any) -> None:
        session.allow("token")

    with asking(check_key) as asked:
        for request in (
            request_of(GET, "GET", "/zzz"),
            request_of(GET, "ZZZ", "/"),
            request_of(GET, "GET", "/"),
        ):
            request.attributes.request.http.host = "zzz"
            raw = request.SerializeToString()
            assert code_of(asked.ask(raw)) == 0
            assert code_of(asked.ask(raw.replace(b"zzz", b"z\xffz").replace(b"ZZZ", b"Z\xffZ"))) == 500
        assert asked.service.refused_calls == 3


def test_metadata_of_another_filter_names_no_caller() -> None:
    @CustomKeyCheck
    def check_key(metadata: Any) -> None:
        metadata.get("other")

    request = request_of()
    request.attributes.metadata_context.filter_metadata["coprocess"].update({"token": "t", "other": "o"})
    with asked_both_ways(check_key) as ways:
        for asked in ways:
            assert code_of(asked.ask(request)) == 403


class Store:
    """One that hangs until `goes_on`."""

    def __init__(self, asked: Asked) -> None:
        self.goes_on = threading.Event()
        self.count = 0
        asked.gateway.limited = self._limited  # type: ignore[method-assign]  # in its place

    def _limited(self, session: Any, api_id: str) -> str:
        self.count += 1
        self.goes_on.wait(PATIENCE_S)
        return ""


class Cancelled(ThreadRpc):
    """Its client gives up when `cancel` is called."""

    def __init__(self) -> None:
        super().__init__()
        self._callbacks: list[Callable[[], None]] = []

    def on_cancel(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def cancel(self) -> None:
        for callback in self._callbacks:
            callback()


@CustomKeyCheck
def limited(session: Any) -> None:
    session.allow("token", rate=100)


@CustomKeyCheck(name="limited")
async def limited_async(session: Any) -> None:
    session.allow("token", rate=100)


@pytest.mark.parametrize("handler", [limited, limited_async])
def test_who_waits_for_a_store_is_in_flight(handler: Any) -> None:
    with asked_both_ways(handler) as ways:
        for asked in ways:
            store = Store(asked)
            rpc = asked.begin(request_of())
            until(lambda store=store: store.count == 1)  # type: ignore[misc]  # its default
            assert asked.service.in_flight == 1
            assert not asked.service.drain(0)
            store.goes_on.set()
            assert code_of(reply_to(rpc)) == 0
            assert asked.service.drain(PATIENCE_S)


@pytest.mark.parametrize("handler", [limited, limited_async])
def test_who_waits_for_a_store_too_long_is_denied(handler: Any) -> None:
    with asked_both_ways(handler, timeout_s=0.2) as ways:
        for asked in ways:
            store = Store(asked)
            assert code_of(asked.ask(request_of())) == 500
            until(lambda asked=asked: not asked.service.in_flight)  # type: ignore[misc]  # its default
            store.goes_on.set()


def test_more_than_may_wait_for_a_store_are_shed_and_who_gave_up_is_not_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limit_asks, "MAX_ASKS", 30)
    monkeypatch.setattr(limit_asks, "_MAX_THREADS", 2)
    with asking(limited) as asked:
        store = Store(asked)
        rpcs = [Cancelled() for _ in range(31)]
        for rpc in rpcs:
            rpc.method, rpc.payload = "", request_of().SerializeToString()
            asked.gateway.check(asked.service, rpc)
        assert code_of(reply_to(rpcs.pop())) == 503
        until(lambda: store.count == 2)
        gone = [ask.rpc for ask in asked.gateway._asks._waiting]
        left = [rpc for rpc in rpcs if rpc not in gone]
        assert len(gone) == 28
        for rpc in rpcs:
            if rpc in gone:
                rpc.cancel()
        assert asked.service.in_flight == 2
        store.goes_on.set()
        assert [code_of(reply_to(rpc)) for rpc in left] == [0, 0]
        until(lambda: not asked.service.in_flight)
        assert store.count == 2


def test_what_cannot_go_out_is_counted_and_logged_as_a_failure() -> None:
    @CustomKeyCheck
    def check_key(request: Any, session: Any) -> None:
        session.allow("token")
        request.body = "new"

    with asked_both_ways(check_key) as ways:
        for asked in ways:
            with capture_logs() as lines:
                assert code_of(asked.ask(request_of())) == 500
            assert [count[5] for count in asked.counts()] == [1]
            assert "replaced the body: ext_authz cannot" in str(lines)


def test_bytes_that_are_not_utf8_are_not_written_as_other_ones() -> None:
    @CustomKeyCheck
    def check_key(request: Any, session: Any) -> None:
        session.allow("token")
        request.headers.add("X-Raw", "b")

    with asked_both_ways(check_key) as ways:
        for asked in ways:
            assert code_of(asked.ask(request_of([*GET, ("x-raw", b"\xe9")], "GET", "/"))) == 500
            raw = asked.ask(request_of([*GET, ("x-raw", "é")], "GET", "/"))
            assert code_of(raw) == 0
            assert "é, b".encode() in raw


def test_a_field_in_two_pieces_is_one() -> None:
    seen: list[Any] = []

    @CustomKeyCheck
    def check_key(request: Any, session: Any, metadata: Any) -> None:
        seen[:] = [request.headers.get("X-A"), request.headers.get("X-B"), metadata["a:k"], metadata["b:k"]]
        session.allow("token")

    raw = b""
    for name in ("a", "b"):
        request = request_of([*GET, (f"x-{name}", name)] if name == "a" else [("x-b", name)], "GET", "/")
        request.attributes.metadata_context.filter_metadata[name].update({"k": name})
        raw += request.SerializeToString()
    with asking(check_key) as asked:
        assert code_of(asked.ask(raw)) == 0
        assert seen == ["a", "b", "a", "b"]


def test_the_first_two_who_have_a_quota_are_counted_together() -> None:
    """Each made a limiter of its own, and passed."""
    both_are_in = threading.Barrier(2)

    def store() -> None:
        with suppress(threading.BrokenBarrierError):
            both_are_in.wait(0.5)

    @CustomKeyCheck
    def check_key(session: Any) -> None:
        session.allow("token", quota_max=1)

    with asking(check_key) as asked:
        asked.gateway._options = replace(asked.gateway._options, limits_store=store)
        rpcs = [asked.begin(request_of()) for _ in range(2)]
        assert sorted(code_of(reply_to(rpc)) for rpc in rpcs) == [0, 403]


def test_what_is_no_http_request_closes() -> None:
    """As the filter of connections sends it: a handler that refuses some paths let it in."""

    @CustomKeyCheck
    def check_key(request: Any, session: Any) -> None:
        if request.path.startswith("/admin"):
            raise Reject(403, "no")
        session.allow("token")

    with asked_both_ways(check_key) as ways:
        for asked in ways:
            for raw in (b"", b"\x0a\x00", b"\x0a\x02\x22\x00"):
                assert code_of(asked.ask(raw)) == 500


def test_an_answer_of_a_stream_that_cannot_go_out_is_counted_as_a_failure() -> None:
    @CustomKeyCheck
    def check_key() -> Any:
        return respond(403, "no", headers=[(f"x-{number}", "1") for number in range(101)])

    failed: list[str] = []
    stream = Stream(check_key)

    def tell_failed(hook: Any, api_id: str, error: Exception) -> None:
        failed.append(str(error))

    stream.gateway.tell_failed = tell_failed  # type: ignore[method-assign]  # in its place
    assert stream.request().immediate_response.status.code == 500
    assert failed == ["responded with 101 headers: this gateway takes 100"]
