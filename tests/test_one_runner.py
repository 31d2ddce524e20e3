"""The same handlers over gRPC, in `try`, `call` and the fixtures: one runner, so one end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from coprocess.cli import call as call_command
from coprocess.desk.tyk.simulator import RpcError
from coprocess.desk.tyk.trial import InProcessDispatcher
from coprocess.errors import CoprocessError
from coprocess.gateways.tyk.home import HOME
from coprocess.gateways.tyk.wire import Object
from coprocess.loading import loader
from coprocess.loading.loaded import Loaded
from coprocess.process.config import Settings
from coprocess.runtime.service_options import ServiceOptions
from coprocess.testing.dispatch import Dispatch
from tests.loading import good, write
from tests.objects import make_object
from tests.server import PATIENCE_S, serving, status_of, until

HANDLERS = """
import asyncio, contextvars, pathlib, time
from coprocess import App, Event, Pre, Reject, respond, trigger_event

app = App()
leaks = contextvars.ContextVar("leaks", default="none")

@app.resource(scope="call")
def stamp():
    yield "opened"

@app.before
def first(request, state):
    state.order = ["before"]

@app.after
def last(request, state):
    request.headers["X-Order"] = " ".join([*state.order, "after"])

@app.errorhandler(KeyError)
def found_nothing(error):
    return respond(404, json={"error": "none"})

@Pre
def plain(request, state, stamp):
    state.order.append(stamp)
    request.headers["X-Leaks"] = leaks.get()
    leaks.set("leaked")

@Pre
async def waits(request, state):
    await asyncio.sleep(0)
    state.order.append("async")
    request.headers["X-Leaks"] = leaks.get()
    leaks.set("leaked")

@Pre
def rejects():
    raise Reject(418, "no")

@Pre
def answers():
    return respond(201, "made")

@Pre
def fails():
    raise ValueError("the cause")

@Pre
async def fails_later():
    await asyncio.sleep(0)
    raise ValueError("the cause")

@Pre
def is_answered_by_a_handler_of_errors():
    raise KeyError("k")

@Pre(on_error="open")
def fails_open(request):
    request.headers["X"] = "1"
    raise ValueError("the cause")

@Pre(timeout=0.05)
def is_late():
    time.sleep(0.2)
    while pathlib.Path("%held").exists():  # Where a watchdog ends the call, it may look late.
        time.sleep(0.005)

@Pre(timeout=0.05)
async def is_late_on_the_loop():
    await asyncio.sleep(60)

@Pre
def ends():
    raise SystemExit(3)

@Pre
def means_nothing():
    return 7

@Pre
def triggers(request):
    trigger_event("heard", '{"n": 1}')

@Event
def heard(event):
    with open("%s", "a") as file:
        file.write(f"{event.api_id} {event.org_id} {event.meta}\\n")
"""
HOOKS = [name for name in re.findall(r"def (\w+)", HANDLERS.partition("@Pre\n")[2]) if name != "heard"]


@dataclass
class End:
    """How a call ended, as its client sees it."""

    status: str
    #: The reply, or what the client is told.
    says: object


@dataclass
class Homes:
    """Each gives the end of a call of one hook."""

    folder: Path
    heard: Path
    #: While it is there, the hook that is late does not end.
    held: Path


@pytest.fixture
def homes(tmp_path: Path) -> Homes:
    heard, held = tmp_path / "heard", tmp_path / "held"
    code = HANDLERS.replace("%s", str(heard)).replace("%held", str(held))
    return Homes(write(tmp_path / "handlers", {"all.py": code}), heard, held)


def sent_to(hook: str) -> bytes:
    message = make_object(hook_name=hook)
    message.spec.update({"APIID": "an-api", "OrgID": "an-org"})
    return message.SerializeToString()


@contextmanager
def loaded(homes: Homes) -> Iterator[Loaded]:
    found = loader.load([homes.folder], HOME)
    good(found)
    yield found
    found.forget()


def over_grpc(homes: Homes, *, status: int | None) -> dict[str, End]:
    ends: dict[str, End] = {}
    options = ServiceOptions(failure_status=status)
    with loaded(homes) as found, serving(found.table, options=options) as server:
        found.open(server.service.async_calls.spawn, PATIENCE_S)
        homes.held.touch()
        for hook in HOOKS:
            try:
                ends[hook] = End(
                    "OK", Object.FromString(server.client.raw(sent_to(hook), timeout=PATIENCE_S))
                )
            except grpc.RpcError as error:
                code, text = status_of(error)
                ends[hook] = End(code.name, text)
        homes.held.unlink()
        # Its being there is not enough: what is in it comes a moment later.
        until(lambda: homes.heard.exists() and homes.heard.read_text().endswith("\n"))
        found.close(PATIENCE_S)
    return ends


def in_a_trial(homes: Homes, *, status: int | None) -> dict[str, End]:
    ends: dict[str, End] = {}
    with (
        loaded(homes) as found,
        InProcessDispatcher(found.table, failure_status=status) as dispatcher,
        dispatcher.opening(found, PATIENCE_S),
    ):
        for hook in HOOKS:
            try:
                ends[hook] = End("OK", Object.FromString(dispatcher.dispatch(sent_to(hook))))
            except RpcError as error:
                ends[hook] = End(error.code_name, error.message)
    return ends


@pytest.mark.parametrize("status", [None, 503])
def test_a_trial_ends_each_call_as_the_service_does(homes: Homes, status: int | None) -> None:
    served = over_grpc(homes, status=status)
    told = homes.heard.read_text()
    homes.heard.unlink()

    assert in_a_trial(homes, status=status) == served
    assert homes.heard.read_text() == told == "an-api an-org {'n': 1}\n"
    assert served["plain"].status == "OK"
    assert {end.status for end in served.values()} == (
        {"OK", "INTERNAL", "DEADLINE_EXCEEDED"} if status is None else {"OK"}
    )


def test_call_shows_what_the_service_replies(homes: Homes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(homes.folder.parent)
    settings = Settings(handlers=[homes.folder], redis="redis://127.0.0.1:1/0")
    served = over_grpc(homes, status=None)
    for hook in HOOKS:
        shown = served[hook].says
        if served[hook].status != "OK":
            with pytest.raises(CoprocessError, match=re.escape(str(shown))):
                call_command.in_process(sent_to(hook), settings, None)
        else:
            reply = Object.FromString(call_command.in_process(sent_to(hook), settings, None))
            assert isinstance(shown, Object)
            assert reply.request.set_headers == shown.request.set_headers, hook
            assert reply.request.return_overrides == shown.request.return_overrides, hook


def test_the_fixture_raises_what_the_handler_raised(homes: Homes) -> None:
    with (
        loaded(homes) as found,
        InProcessDispatcher(found.table) as dispatcher,
        dispatcher.opening(found, PATIENCE_S),
    ):
        dispatch = Dispatch(dispatcher)
        assert dispatch("Pre", "plain").request.headers["X-Order"] == "before opened after"
        with pytest.raises(ValueError, match="the cause"):
            dispatch("Pre", "fails")
