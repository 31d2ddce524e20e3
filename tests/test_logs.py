"""What is logged of handlers: their prints, their logs, their exceptions, each with its hook."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from hpack import Encoder

import coprocess
from coprocess import Pre
from coprocess.api.context import CallContext, current_call
from coprocess.api.state import State
from coprocess.errors import HandlerFailed
from coprocess.loading.hooks import HookTable
from coprocess.process import logs
from tests.conftest import Load
from tests.loading import good, program, reply_of
from tests.objects import event_json, make_object, make_request, table_of
from tests.server import PATIENCE_S, error_of, serving, status_of, until

OWN_KEYS = {"event", "level", "logger", "timestamp"}


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the logs go. The process's own logging is put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def table(load: Load) -> HookTable:
    return good(load(program("logging")))


def entries(stream: io.StringIO) -> list[dict[str, Any]]:
    """All of the log: every line is JSON."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def told(stream: io.StringIO, **wanted: str) -> list[dict[str, Any]]:
    """The entries of which this is true, without what every entry has."""
    return [
        {key: value for key, value in entry.items() if key not in {"timestamp", *wanted}}
        for entry in entries(stream)
        if wanted.items() <= entry.items()
    ]


@contextmanager
def captured(stream: io.StringIO, log_format: logs.LogFormat = "json", level: str = "info") -> Iterator[None]:
    logs.configure(log_format, level, stream)
    with logs.capturing_prints():
        yield


def test_prints_are_logged_with_their_hook(table: HookTable, stream: io.StringIO) -> None:
    with captured(stream):
        reply_of(table, "prints", api_id="an-api")

    of_call = {"hook": "prints", "hook_type": "Pre", "api_id": "an-api", "logger": "handler.output"}
    assert told(stream, **of_call) == [
        {"event": "one-2!", "level": "info"},
        {"event": "first", "level": "info"},
        {"event": "second", "level": "info"},
        {"event": "to stderr", "level": "warning"},
        {"event": "three four", "level": "info"},
    ]
    assert len(entries(stream)) == 5


def test_logs_of_handlers_are_tagged(table: HookTable, stream: io.StringIO) -> None:
    with captured(stream):
        reply_of(table, "logs", api_id="an-api")

    assert told(stream, hook="logs", hook_type="Pre", api_id="an-api") == [
        {"event": "logged text", "level": "warning", "logger": "mine", "amount": 5},
        {"event": "structured", "level": "info", "logger": "theirs", "user": "u"},
    ]


def test_events_are_tagged(table: HookTable, stream: io.StringIO) -> None:
    with captured(stream), serving(table) as server:
        server.client.send_event(event_json(handler="on_event", api_id="an-api"))

    assert told(stream, hook="on_event", hook_type="Event", api_id="an-api") == [
        {"event": "an event", "level": "info", "logger": "handler.output"}
    ]


def test_prints_of_calls_that_interleave_stay_apart(table: HookTable, stream: io.StringIO) -> None:
    messages = [
        make_object(
            hook_name="prints_async", api_id=f"api-{who}", request=make_request(headers={"X-Who": who})
        )
        for who in "abcdef"
    ]
    with captured(stream), serving(table) as server:
        for future in [server.client.future(message) for message in messages]:
            future.result(timeout=PATIENCE_S)

    printed = {(entry["api_id"], entry["event"]) for entry in entries(stream) if entry.get("hook")}
    assert printed == {(f"api-{who}", f"before {who} after {who}") for who in "abcdef"}


def test_line_that_a_call_left_open_is_tagged_with_that_call(table: HookTable, stream: io.StringIO) -> None:
    """Not with the next one's in its thread."""
    with captured(stream), serving(table) as server:
        for api_id in ("first", "second"):
            server.client.future(make_object(hook_name="prints_no_end", api_id=api_id)).result(PATIENCE_S)

    assert [(entry["api_id"], entry["event"]) for entry in entries(stream) if entry.get("hook")] == [
        ("first", "unfinished"),
        ("second", "unfinished"),
    ]


def test_endless_line_is_cut(stream: io.StringIO) -> None:
    with captured(stream), a_call():
        for _ in range(5):
            sys.stdout.write("x" * 10_000)
        print()

    lengths = [len(entry["event"]) for entry in entries(stream)]
    assert sum(lengths) == 50_000
    assert max(lengths) < 30_000


class Call(CallContext):
    hook_type = "Pre"
    hook_name = "some"
    api_id = "api"
    hook = None
    org_id = version = ""
    state = State()
    app = None


@contextmanager
def a_call() -> Iterator[None]:
    token = current_call.set(Call())
    try:
        yield
    finally:
        current_call.reset(token)


def test_prints_outside_of_calls_go_where_they_would(
    stream: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    with captured(stream):
        print("not a handler's")
        print("nor this", file=sys.stderr)

    assert capsys.readouterr() == ("not a handler's\n", "nor this\n")
    assert not stream.getvalue()


def test_standard_output_is_put_back() -> None:
    before = sys.stdout, sys.stderr

    with logs.capturing_prints():
        assert sys.stdout is not before[0]
        assert sys.stdout.writable()
        assert sys.stdout.encoding == before[0].encoding

    assert (sys.stdout, sys.stderr) == before


def test_debug_does_not_tell_of_each_header_of_each_call(stream: io.StringIO) -> None:
    """Ten entries a call were of hpack's own steps, and hid those of handlers."""
    with captured(stream, level="debug"):
        Encoder().encode([(b"name", b"value")])
        logging.getLogger("mine").debug("a handler's")
    assert [entry["event"] for entry in entries(stream)] == ["a handler's"]


def test_level_holds_for_prints_too(table: HookTable, stream: io.StringIO) -> None:
    with captured(stream, level="warning"):
        reply_of(table, "prints")

    assert [entry["event"] for entry in entries(stream)] == ["to stderr"]


class BrokenStream(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_log_that_cannot_be_written_fails_no_handler(table: HookTable) -> None:
    """Python says of such a failure on standard error, which is captured: it must not be logged again."""
    handlers = logging.getLogger().handlers[:]
    try:
        with captured(BrokenStream()):
            reply_of(table, "prints")
            reply_of(table, "logs")
    finally:
        logging.getLogger().handlers[:] = handlers
        structlog.reset_defaults()


def test_exception_is_logged_once_and_the_gateway_told_nothing_of_it(
    table: HookTable, stream: io.StringIO
) -> None:
    with captured(stream), serving(table) as server:
        code, details = error_of(server.client.future(make_object(hook_name="fails", api_id="an-api")))

    assert code is grpc.StatusCode.INTERNAL
    assert details == 'Pre hook "fails" raised ValueError'
    [entry] = [entry for entry in entries(stream) if "secret" in json.dumps(entry)]
    assert (entry["hook"], entry["hook_type"], entry["api_id"]) == ("fails", "Pre", "an-api")
    assert entry["level"] == "error"
    assert "Traceback (most recent call last):" in entry["exception"]
    assert 'raise ValueError("secret' in entry["exception"]
    assert "detail ü" in entry["exception"]
    assert not [entry for entry in entries(stream) if entry.keys() - OWN_KEYS == {"exception"}]


def test_exception_that_a_handler_logs_itself(table: HookTable, stream: io.StringIO) -> None:
    with captured(stream):
        reply_of(table, "fails_while_logging")

    [entry] = entries(stream)
    assert (entry["event"], entry["hook"]) == ("kept going", "fails_while_logging")
    assert "KeyError: 'absent'" in entry["exception"]


def test_unknown_hook_is_told_to_the_gateway_and_logged(table: HookTable, stream: io.StringIO) -> None:
    with captured(stream), serving(table) as server, pytest.raises(grpc.RpcError) as caught:
        server.client.dispatch(make_object(hook_name="fail"))

    code, details = status_of(caught.value)
    assert code is grpc.StatusCode.NOT_FOUND
    assert details.startswith('no Pre hook "fail" for API "api"; loaded, nearest first: Pre "fails", ')
    assert details in [entry.get("reason") for entry in entries(stream)]


def test_text_for_people(table: HookTable, stream: io.StringIO) -> None:
    with captured(stream, "text"), serving(table) as server:
        server.client.dispatch(make_object(hook_name="logs", api_id="an-api"))
        error_of(server.client.future(make_object(hook_name="fails")))

    text = stream.getvalue()
    [line] = [line for line in text.splitlines() if "logged text" in line]
    assert "hook=logs" in line
    assert "api_id=an-api" in line
    assert "\x1b[" not in text
    assert '    raise ValueError("secret\\ndetail ü")' in text.splitlines()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_auto_is_text_on_a_terminal_and_json_elsewhere(
    table: HookTable, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    with captured(stream, "auto"):
        reply_of(table, "logs")

    assert stream.getvalue().startswith("{") is not is_terminal


def test_failure_in_process_has_its_cause(table: HookTable) -> None:
    with pytest.raises(HandlerFailed) as caught:
        reply_of(table, "fails")

    assert isinstance(caught.value.__cause__, ValueError)


HOSTILE = (
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m",
    "\r\n2026-11-27T00:00:00Z [error    ] forged",
    "\n2026-11-27T00:00:00Z [error    ] forged",
    "\u202egnp.exe\u202c",
    "\u2066a\u2069\u200e\u200f\u061c",
    "a\u2028forged\u2029forged\x85forged\x0bforged\x0cforged\x1cforged",
    "a\u200bb\u200db\ufeffb\u00adb",
    "\ud800",
)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_text_of_others_is_obeyed_or_makes_a_line(
    stream: io.StringIO, text: str, log_format: logs.LogFormat
) -> None:
    """Whatever way it gets into the log."""
    with captured(stream, log_format), a_call():
        print(f"printed {text!s}".replace("\n", "\r"))
        logging.getLogger("mine").warning("logged %s", text)
        logging.getLogger(f"named{text}").warning("x")
        structlog.get_logger("mine").info("field", a=f"a{text}", b=[text], **{f"k{text}": 1})
        try:
            raise ValueError(f"raised{text}")
        except ValueError:
            logging.getLogger("mine").exception("it failed")
        structlog.get_logger("mine").info("stack", stack_info=True)

    shown = stream.getvalue()
    assert not [character for character in shown if not character.isprintable() and character != "\n"]
    lines = shown.splitlines()
    assert lines == shown.split("\n")[:-1]
    starts = [line for line in lines if line.strip() and not line.startswith((" ", "Traceback (most "))]
    assert len(starts) == 6, shown


def test_harmless_text_is_logged_as_it_is(stream: io.StringIO) -> None:
    with captured(stream, "text"):
        structlog.get_logger("mine").info("Grüße, 世界 🎉", a="back\\slash", b="two words", c="line\nline")
    assert "Grüße, 世界 🎉" in stream.getvalue()
    assert "a=back\\slash b='two words' c='line\\nline'" in stream.getvalue()


@pytest.mark.parametrize("name", ["sync", "on_the_loop"])
def test_what_structlog_has_bound_reaches_the_log_of_its_call_alone(stream: io.StringIO, name: str) -> None:
    def work(request: Any) -> None:
        who = request.headers.get("X-Who")
        if who:
            structlog.contextvars.bind_contextvars(who=who, hook="another")
        structlog.get_logger("mine").info("one")
        logging.getLogger("mine").warning("two")
        print("three")
        raise ValueError

    def declare() -> None:
        @Pre
        def sync(request: Any) -> None:
            work(request)

        @Pre
        async def on_the_loop(request: Any) -> None:
            work(request)

    with captured(stream), serving(table_of(declare)) as server:
        for who in ("a", ""):
            message = make_object(hook_name=name, request=make_request(headers={"X-Who": who}))
            error_of(server.client.future(message))
            until(lambda: server.service.in_flight == 0)

    told = [(entry["event"], entry.get("who"), entry["hook"]) for entry in entries(stream)]
    failed = f'Pre hook "{name}" raised ValueError'
    assert told == [(event, who, name) for who in ("a", None) for event in ("one", "two", "three", failed)]


def test_a_handlers_traceback_has_its_own_frames_only_unless_asked(stream: io.StringIO) -> None:
    def declare() -> None:
        @Pre
        def sets_nonsense(request: Any) -> None:
            request.headers["X"] = object()

    for level, ours in (("info", False), ("debug", True)):
        with captured(stream, level=level), serving(table_of(declare)) as server:
            error_of(server.client.future(make_object(hook_name="sets_nonsense")))
        entry = entries(stream)[-1]
        assert 'request.headers["X"] = object()' in entry["exception"]
        assert (str(Path(coprocess.__file__).parent) in entry["exception"]) is ours


def test_no_field_of_an_entry_is_longer_than_fits(stream: io.StringIO) -> None:
    huge = "x" * 2**22
    with captured(stream):
        log = structlog.get_logger("mine")
        log.info(huge, text=huge, nested={huge: [huge] * 100}, many=list(range(10**6)), raw=huge.encode())
        log.info("many fields", **{f"f{number}": huge for number in range(10_000)})
        logging.getLogger("mine").warning("%s", huge, extra={"more": huge})
        try:
            raise ValueError(huge) from KeyError(huge)
        except ValueError:
            log.exception("failed")
        with a_call():
            print(huge)

    assert max(len(line) for line in stream.getvalue().splitlines()) < 200_000
    for entry in entries(stream):
        assert all(len(json.dumps(value)) < 20_000 for value in entry.values()), entry.keys()
        assert len(entry) <= 110
    failed = next(entry for entry in entries(stream) if entry["event"] == "failed")
    assert "KeyError: 'xxx" in failed["exception"]
    assert "ValueError: xxx" in failed["exception"]
    assert "(4194304 characters)" in failed["exception"]
