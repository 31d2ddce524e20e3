"""State that the hooks of one request share: what opens it, and what does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from coprocess.api.moments import HookType
from coprocess.desk.store import TemporaryServer
from coprocess.gateways.tyk.dispatcher import Dispatcher
from coprocess.gateways.tyk.home import HOME
from coprocess.gateways.tyk.request_state import HEADER, MAX_STATE_BYTES
from coprocess.gateways.tyk.wire import Object
from coprocess.loading import loader
from coprocess.process.config import Settings
from tests.loading import write
from tests.objects import make_object, make_request, run_sync
from tests.serve_process import ServeProcess
from tests.server import Client, fails

HANDLERS = """
from coprocess import CustomKeyCheck, Post, Pre, Response, g

@Pre
def begin(request, state):
    state.order = [*state.get("order", []), "begin"]
    state.who = request.headers.get("X-Who", "")

@Pre
async def further(request, state):
    state.order = [*state.get("order", []), "further"]

@CustomKeyCheck
def check(request, session, state):
    session.allow("key")
    state.order = [*state.get("order", []), "check"]

@Post
def show(request, state):
    request.headers["X-Order"] = " ".join([*state.get("order", []), state.get("who", "nobody")])

@Response
async def last(response, state):
    response.headers["X-Order"] = " ".join([*state.get("order", []), state.get("who", "nobody")])

@Pre
def leaves_a_set(state):
    state.seen = {1}

@Pre
def leaves_much(state):
    state.text = "x" * 70_000
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TemporaryServer]:
    running = TemporaryServer(tmp_path_factory.mktemp("store"))
    yield running
    running.close()


@contextmanager
def serving(folder: Path, server: TemporaryServer, *flags: str) -> Iterator[Client]:
    handlers = write(folder / "handlers", {"all.py": HANDLERS})
    with (
        ServeProcess(handlers, "--request-state", f"--redis={server.url}", *flags) as service,
        Client(service.address) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, server: TemporaryServer) -> Iterator[Client]:
    with serving(tmp_path_factory.mktemp("service"), server) as client:
        yield client


def call(client: Client, moment: str, name: str, headers: dict[str, str], api: str = "api") -> dict[str, str]:
    """The headers of the request after that hook, as the next one gets them."""
    request = make_request()
    request.headers.update(headers)
    reply = client.dispatch(make_object(HookType[moment], name, request=request, api_id=api))
    return {**headers, **reply.request.set_headers}


def test_all_hooks_of_a_request_share_it(client: Client) -> None:
    headers: dict[str, str] = {"X-Who": "me"}
    for moment, name in (("Pre", "begin"), ("Pre", "further"), ("CustomKeyCheck", "check"), ("Post", "show")):
        headers = call(client, moment, name, headers)
    request = make_request()
    request.headers.update(headers)
    reply = client.dispatch(make_object(HookType.Response, "last", request=request))

    assert headers["X-Order"] == "begin further check me"
    assert {each.key: list(each.values) for each in reply.response.multivalue_headers}["X-Order"] == [
        "begin further check me"
    ]


def test_requests_at_one_time_do_not_meet(client: Client) -> None:
    first = call(client, "Pre", "begin", {"X-Who": "first"})
    second = call(client, "Pre", "begin", {"X-Who": "second"})

    assert first[HEADER] != second[HEADER]
    assert call(client, "Post", "show", first)["X-Order"] == "begin first"
    assert call(client, "Post", "show", second)["X-Order"] == "begin second"


@pytest.mark.parametrize("change", ["id", "signature", "empty", "unsigned", "long", "other text"])
def test_a_forged_id_opens_nothing(client: Client, change: str) -> None:
    headers = call(client, "Pre", "begin", {"X-Who": "victim"})
    state_id, _, signature = headers[HEADER].partition(".")
    forged = {
        "id": f"{state_id[:-1]}{'A' if state_id[-1] != 'A' else 'B'}.{signature}",
        "signature": f"{state_id}.{'A' * len(signature)}",
        "empty": ".",
        "unsigned": state_id,
        "long": f"{state_id}.{signature}" * 500,
        "other text": "é☃",
    }[change]

    after = call(client, "Post", "show", {**headers, HEADER: forged})

    assert after["X-Order"] == "nobody"
    assert after[HEADER] not in (forged, headers[HEADER])


def test_an_id_of_another_api_opens_nothing(client: Client) -> None:
    headers = call(client, "Pre", "begin", {"X-Who": "victim"})

    assert call(client, "Post", "show", headers, api="other")["X-Order"] == "nobody"


def test_an_id_that_is_sent_again_opens_nothing(client: Client) -> None:
    headers = call(client, "Pre", "begin", {"X-Who": "victim"})
    call(client, "Post", "show", headers)

    again = call(client, "Pre", "begin", {**headers, "X-Who": "thief"})

    assert again[HEADER] != headers[HEADER]
    assert call(client, "Post", "show", again)["X-Order"] == "begin thief"
    # Nor for a hook that the first request did not come by, before those that it did.
    assert call(client, "Pre", "further", headers)[HEADER] != headers[HEADER]


def test_it_is_gone_after_its_time(client: Client, server: TemporaryServer) -> None:
    headers = call(client, "Pre", "begin", {"X-Who": "me"})
    server.advance(61)

    assert call(client, "Post", "show", headers)["X-Order"] == "nobody"


@pytest.mark.parametrize(
    ("hook", "words"),
    [("leaves_a_set", "cannot be kept"), ("leaves_much", f"at most {MAX_STATE_BYTES}, as JSON")],
)
def test_what_cannot_be_kept_fails_the_call(client: Client, hook: str, words: str) -> None:
    code, text = fails(lambda: client.dispatch(make_object(hook_name=hook)))

    assert code is grpc.StatusCode.INTERNAL
    assert text.startswith(f'Pre hook "{hook}" left ')
    assert words in text


def test_another_process_with_the_same_store_opens_it(
    client: Client, server: TemporaryServer, tmp_path: Path
) -> None:
    headers = call(client, "Pre", "begin", {"X-Who": "me"})
    secret = write(tmp_path, {"secret": "another secret of one's own"}) / "secret"

    with serving(tmp_path, server) as other:
        assert call(other, "Post", "show", headers)["X-Order"] == "begin me"
    with serving(tmp_path, server, f"--request-state-secret-file={secret}") as foreign:
        assert call(foreign, "Post", "show", headers)["X-Order"] == "nobody"


def test_without_a_store_the_call_fails_closed(tmp_path: Path, server: TemporaryServer) -> None:
    handlers = write(tmp_path / "handlers", {"all.py": HANDLERS})
    with ServeProcess(handlers, "--request-state") as service, Client(service.address) as client:
        code, text = fails(lambda: client.dispatch(make_object(hook_name="begin")))

    assert code is grpc.StatusCode.INTERNAL
    assert "the state of its request cannot be had" in text


def test_it_is_off_by_default(tmp_path: Path) -> None:
    handlers = write(tmp_path / "handlers", {"all.py": HANDLERS})
    found = loader.load([handlers], HOME)
    assert Settings().request_state is False
    call = Dispatcher(found.table).open_dispatch(make_object(hook_name="begin").SerializeToString())
    reply = run_sync(call)
    assert HEADER not in Object.FromString(reply).request.set_headers
    found.forget()
