"""The fixtures of the pytest plugin."""

from __future__ import annotations

import json

import pytest

from tests.pytest_plugin.projects import API, passes

pytest_plugins = "pytester"


def test_gateway(project: pytest.Pytester) -> None:
    passes(
        project,
        """
        def test_first(gateway, store):
            result = gateway.put("/a", params={"q": "x y"}, headers={"X-A": "é"}, body="text")
            assert result.status == 200 and result.ok
            assert result.dropped is None
            assert result.text == '{"ok":true}' and result.json() == {"ok": True}
            assert result.headers["x-tidy"] == "1"
            sent = result.upstream
            assert (sent.method, sent.url, sent.body, sent.text) == ("PUT", "/a?q=x+y", b"text", "text")
            assert sent.headers["x-seen"] == "1"
            assert sent.headers["X-A"].encode("latin-1").decode() == "é"
            assert list(result.hooks) == ["stamp", "stamp", "tidy"]
            assert result.hooks["Post", "stamp"].changes == {}
            assert result.hooks["tidy"].changes == {"response.headers": {"X-Tidy": "1"}}
            assert result.hooks["Pre", "stamp"].error is None
            assert 0 < result.hooks["tidy"].seconds < result.seconds
            assert "tidy" in result.hooks and "other" not in result.hooks
            assert store.get("async") == b"1"

        def test_every_method(gateway):
            for method in ("get", "post", "put", "patch", "delete", "options"):
                assert getattr(gateway, method)("/").upstream.method == method.upper()
            assert gateway.head("/").body == b""

        def test_again(gateway, store):
            # Handlers and store are new.
            assert store.get("async") is None
            assert gateway.get("/").upstream.headers["X-Stamp"] == "1"
            assert gateway.get("/").upstream.headers["X-Seen"] == "2"
        """,
    )


def test_a_machine_that_stands_still_fails_no_trial(project: pytest.Pytester) -> None:
    """Once, the store had the deadline of production, a second, and a busy machine failed users' tests."""
    passes(
        project,
        """
        import os, signal, threading
        from coprocess.store import store as of_handlers

        def test_it(_coprocess_server, gateway, store):
            store.set("k", "v")
            pid = _coprocess_server._server.pid
            for read in (store.get, of_handlers.get):
                goes_on = threading.Timer(1.5, os.kill, [pid, signal.SIGCONT])
                os.kill(pid, signal.SIGSTOP)
                goes_on.start()
                try:
                    assert read("k") == b"v"
                finally:
                    goes_on.join()
        """,
    )


def test_hooks_by_name(project: pytest.Pytester) -> None:
    passes(
        project,
        """
        import pytest

        def test_it(gateway):
            result = gateway.get("/")
            with pytest.raises(KeyError, match="name the type too. Called: Pre .*stamp.*, Post .*stamp"):
                result.hooks["stamp"]
            with pytest.raises(KeyError, match="'other' was not called. Called: Pre"):
                result.hooks["other"]
        """,
    )


def test_upstreams(project: pytest.Pytester) -> None:
    passes(
        project,
        """
        import pytest
        from coprocess import respond

        def wsgi(environ, start_response):
            start_response("201 Created", [("X-Path", environ["PATH_INFO"])])
            return [b"wsgi"]

        async def asgi(scope, receive, send):
            await send({"type": "http.response.start", "status": 202, "headers": []})
            await send({"type": "http.response.body", "body": scope["path"].encode()})

        class App:
            async def __call__(self, scope, receive, send):
                await asgi(scope, receive, send)

        @pytest.mark.parametrize(
            ("upstream", "status", "text"),
            [
                (404, 404, "{}"),
                (respond(503, "down", headers={"X-Up": "1"}), 503, "down"),
                ({"a": 1}, 200, '{"a": 1}'),
                (lambda request: respond(200, request.url), 200, "/a"),
                (wsgi, 201, "wsgi"),
                (asgi, 202, "/a"),
                (App(), 202, "/a"),
            ],
        )
        def test_it(gateway, upstream, status, text):
            gateway.upstream = upstream
            result = gateway.get("/a")
            assert (result.status, result.text) == (status, text)

        @pytest.mark.parametrize("upstream", [None, "ftp://a", 1.5, lambda: 1])
        def test_none(gateway, upstream):
            if upstream is None:
                gateway.upstream = None
                assert gateway.get("/").status == 200
                return
            with pytest.raises(Exception, match="upstream"):
                gateway.upstream = upstream
        """,
    )


def test_marker(project: pytest.Pytester) -> None:
    project.mkdir("others")
    (project.path / "others" / "x.py").write_text("from coprocess import Pre\n@Pre\ndef other(): pass\n")
    (project.path / "other.json").write_text(
        json.dumps(API | {"custom_middleware": {"driver": "grpc", "pre": [{"name": "other"}]}})
    )
    passes(
        project,
        f"""
        import pytest

        pytestmark = pytest.mark.coprocess(upstream=201)

        @pytest.mark.coprocess(handlers=["others"], api="other.json")
        def test_files(gateway):
            result = gateway.get("/")
            assert list(result.hooks) == ["other"] and result.status == 201

        @pytest.mark.coprocess(api={API!r}, upstream=204)
        def test_dict(gateway):
            assert gateway.get("/").status == 204
        """,
        "--strict-markers",
    )


def test_options(project: pytest.Pytester) -> None:
    (project.path / "handlers").rename(project.path / "plugins")
    (project.path / "api.json").rename(project.path / "mine.json")
    project.makepyprojecttoml(
        """
        [tool.pytest.ini_options]
        coprocess_handlers = ["plugins"]
        coprocess_api = "mine.json"
        """
    )
    passes(project, 'def test_it(gateway): assert gateway.get("/").hooks["tidy"].changes')


def test_keyless_definition_of_the_handlers(project: pytest.Pytester) -> None:
    (project.path / "api.json").unlink()
    passes(
        project,
        """
        def test_it(gateway):
            result = gateway.get("/any/where")
            assert [(hook.type, hook.name) for hook in result.hooks.values()] == [
                ("Pre", "stamp"), ("Pre", "failing"),
            ]
            assert result.status == 500 and not result.ok
            assert isinstance(result.hooks["failing"].raised, ValueError)
            assert "failing" in repr(result) and "ouch" in repr(result)
        """,
    )


def test_definition_in_apis(project: pytest.Pytester) -> None:
    project.mkdir("apis")
    (project.path / "api.json").rename(project.path / "apis" / "only.json")
    passes(project, 'def test_it(gateway): assert gateway.definition.name == "API"')


def test_events_and_dropped_connections(project: pytest.Pytester) -> None:
    api = API | {
        "use_keyless": False,
        "custom_plugin_auth_enabled": True,
        "custom_middleware": {"driver": "grpc", "auth_check": {"name": "key"}},
        "event_handlers": {
            "events": {
                "AuthFailure": [{"handler_name": "cp_dynamic_handler", "handler_meta": {"name": "heard"}}]
            }
        },
    }
    (project.path / "api.json").write_text(json.dumps(api))
    passes(
        project,
        """
        def test_it(gateway, store):
            result = gateway.get("/a")
            [event] = result.events
            assert (event.type, event.handler, event.ran) == ("AuthFailure", "heard", True)
            assert event.meta["Path"] == "/a"
            assert store.get_text("heard") == "AuthFailure"
            assert result.upstream is None and result.status == 401
        """,
    )


def test_dispatch(project: pytest.Pytester) -> None:
    passes(
        project,
        """
        import pytest
        from coprocess import respond
        from coprocess.errors import UnknownHook

        def test_requests(dispatch):
            reply = dispatch("Pre", "stamp", method="POST", url="/a?b=c", json={"a": 1}, headers={"X-A": "1"})
            assert reply.sent.request.raw_body == b'{"a": 1}'
            assert reply.sent.request.headers["X-A"] == "1"
            assert reply.changes == {"request.set_headers": {"X-Stamp": "1", "X-Seen": "1"}}
            assert reply.ignored == {}
            assert reply.request.set_headers["X-Stamp"] == "1"
            assert reply.overrides.response_code == -1

        def test_requests_read_as_those_of_gateway(dispatch, gateway):
            sent = dict(method="POST", url="/a?b=c", headers={"X-A": "é"}, body='{"a": 1}')
            request, upstream = dispatch("Pre", "stamp", **sent).request, gateway.request(**sent).upstream
            for name in ("X-A", "X-Stamp", "Host"):
                assert name in request.headers and name in upstream.headers
            assert request.headers["X-A"] == upstream.headers["X-A"]
            for field in ("method", "url", "body", "text"):
                assert getattr(request, field) == getattr(upstream, field)
            assert request.json() == upstream.json() == {"a": 1}
            assert request.raw_body == request.body
            with pytest.raises(AttributeError, match="no_such"):
                request.no_such

        def test_edits_that_do_not_count_are_not_shown(dispatch):
            response = dispatch("Response", "tidy", response=respond(404, json=[1])).response
            assert (response.status, response.json(), response.headers["x-tidy"]) == (404, [1], "1")
            assert response.headers.getall("X-Tidy") == ["1"]

        def test_wrong_types_are_named(dispatch, gateway):
            for send in (lambda **o: dispatch("Pre", "stamp", **o), lambda **o: gateway.get("/", **o)):
                with pytest.raises(TypeError, match="header X: the value is a str, not int"):
                    send(headers={"X": 7})
            with pytest.raises(TypeError, match="session.'alias'.: int is no value of this field"):
                dispatch("Post", "stamp", session={"rate": 1, "alias": 7})

        def test_auth(dispatch):
            reply = dispatch("CustomKeyCheck", "key", headers={"Authorization": "1"})
            assert reply.metadata == {"token": "caller"}
            assert dispatch("CustomKeyCheck", "key").overrides.response_code == 401

        def test_async_handler(dispatch):
            assert dispatch("Post", "stamp", session={"alias": "x"}).sent.session.alias == "x"

        def test_response(dispatch):
            reply = dispatch("Response", "tidy", response=respond(404, "gone"))
            assert reply.response.status_code == 404
            assert reply.changes == {"response.headers": {"X-Tidy": "1"}}

        def test_event(dispatch, store):
            dispatch.event("heard", "QuotaExceeded")
            assert store.get("heard") == b"QuotaExceeded"

        def test_failures(dispatch):
            with pytest.raises(ValueError, match="ouch"):
                dispatch("Pre", "failing")
            with pytest.raises(UnknownHook):
                dispatch("Post", "failing")
            with pytest.raises(UnknownHook):
                dispatch.event("missing")
            with pytest.raises(ValueError, match="expected one of Pre"):
                dispatch("Prre", "stamp")
        """,
    )


def test_async_tests(project: pytest.Pytester) -> None:
    """anyio brings its own plugin: its asyncio tests run on a loop of theirs."""
    passes(
        project,
        """
        import asyncio
        import pytest

        pytestmark = pytest.mark.anyio

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        async def test_sync_use(gateway, dispatch):
            assert gateway.get("/").hooks["Post", "stamp"].status == "OK"
            dispatch("Post", "stamp")

        async def test_async_use(gateway, store):
            loop = asyncio.get_running_loop()
            async def answer(reader, writer):
                await reader.readuntil(b"\\r\\n\\r\\n")
                writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\nhi")
                await writer.drain()
                writer.close()
                await writer.wait_closed()
            server = await asyncio.start_server(answer, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            gateway.upstream = f"http://127.0.0.1:{port}"
            results = await asyncio.gather(gateway.aget("/a"))
            assert results[0].text == "hi"
            assert (await gateway.apost("/a", json={})).upstream.method == "POST"
            server.close()
            await server.wait_closed()
            await store.aio.set("mine", "1")
            assert await store.aio.get("mine") == b"1"
            await store.aio.aclose()
        """,
    )


def test_the_clock_is_the_stores_too(project: pytest.Pytester) -> None:
    passes(
        project,
        """
        def keys(store):
            return [store.get(key) for key in ("soon", "later", "never")]

        def test_it(gateway, store):
            store.set("soon", "1", ttl_s=60)
            store.set("later", "2", ttl_s=600)
            store.set("never", "3")
            gateway.advance(59)
            assert keys(store) == [b"1", b"2", b"3"]
            gateway.advance(1)
            assert keys(store) == [None, b"2", b"3"]
            store.advance(3600)
            assert keys(store) == [None, None, b"3"]
        """,
    )
