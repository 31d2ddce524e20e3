"""Whatever a plugin does, each request is answered, and what fails refuses the request."""

from __future__ import annotations

import gc
import json
import random
import select
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from coprocess.gateways.kong import late_steps, pdk, wire
from coprocess.gateways.kong.connection import Connection
from coprocess.gateways.kong.plugin import PluginOptions
from coprocess.runtime.service_options import ServiceOptions
from tests.kong.server import serving
from tests.server import PATIENCE_S, until

REFUSED = ("kong.response.exit", [500, {"message": "An unexpected error occurred"}])


def plugin(access: str, init: str = "pass", phase: str = "access") -> str:
    return f"""
import time

class Plugin:
    def __init__(self, config):
        self.config = config
        {init}

    def {phase}(self, kong):
        {access}
"""


FAILING = {
    "before a call": "raise ValueError('boom')",
    "after a call": "kong.request.get_method(); raise ValueError('boom')",
    "an argument that cannot be sent": "kong.ctx.shared.set('a', object())",
    "a number that is too large": "kong.response.set_header('x', 2**70)",
    "an argument within itself": "a = []; a.append(a); kong.response.set_header('x', a)",
    "a keyword argument": "kong.request.get_header(name='x')",
    "an unknown name": "kong.request.get_heder('x')",
    "an unknown part": "kong.requests.get_header('x')",
    "SystemExit": "raise SystemExit(1)",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "too deep": "def f(): f()\n        f()",
}


@pytest.mark.parametrize("what", FAILING)
def test_what_fails_refuses_the_request_and_the_next_is_served(tmp_path: Path, what: str) -> None:
    body = f"""
        if kong.request.get_header('x')[0] == 'ok':
            return kong.response.set_header('y', 'z')
        {FAILING[what]}
    """
    with serving(tmp_path, plugin(body)) as served:
        kong = served.connect()
        instance = kong.start()
        for _ in range(3):
            calls = kong.run(instance, get_header="no")
            assert calls[-1] == REFUSED
            assert kong.run(instance, get_header="ok")[-1] == ("kong.response.set_header", ["y", "z"])
        served.wait_idle()


def test_writing_of_a_failure_holds_up_no_other_request_of_its_connection(tmp_path: Path) -> None:
    """Once, Kong's next request on that connection waited until the traceback was in the log."""
    may_end = tmp_path / "may_end"
    source = f"""
import pathlib, time

class SlowToTell(Exception):
    def __str__(self):
        until_s = time.monotonic() + 60
        while not pathlib.Path({str(may_end)!r}).exists() and time.monotonic() < until_s:
            time.sleep(0.01)
        return "told"

class Plugin:
    def __init__(self, config):
        self.config = config

    def access(self, kong):
        if self.config:
            raise SlowToTell
"""
    with serving(tmp_path, source) as served:
        kong = served.connect()
        raises, passes = kong.start('{"raises": true}'), kong.start()
        assert kong.run(raises) == [REFUSED]
        assert kong.run(passes) == []
        may_end.touch()
        served.wait_idle()


@pytest.mark.parametrize("kind", ["", "async "])
def test_a_failure_stands_in_kongs_log_where_that_is_asked_for(tmp_path: Path, kind: str) -> None:
    source = plugin("raise ValueError('secret')").replace("def access", f"{kind}def access")
    with serving(tmp_path, source, PluginOptions(name="p", tells_kong=True)) as served:
        kong = served.connect()
        (method, (text,)), refused = kong.run(kong.start())
        assert method == "kong.log.err"
        assert "p: access failed" in text
        assert "ValueError" in text
        assert "secret" not in text
        assert refused == REFUSED
        served.wait_idle()


@pytest.mark.parametrize("kind", ["", "async "])
def test_what_a_plugin_logs_stands_in_kongs_log_at_its_level_where_that_is_asked_for(
    tmp_path: Path, kind: str
) -> None:
    wait = "await " if kind else ""
    body = f"""
        import logging
        log = logging.getLogger("mine")
        log.info("is info in Kong's log in any case")
        log.warning("no %s", "cache")
        log.error("two\\nlines \\ud800")
        {wait}kong.response.set_header("x", "y")
        log.critical("token hunter2")
        {wait}kong.response.exit(403, "no")
        log.error("after the end")
    """
    source = plugin(body).replace("def access", f"{kind}def access")
    options = PluginOptions(name="p", tells_kong=True, redact=lambda text: text.replace("hunter2", "…"))
    with serving(tmp_path, source, options) as served:
        kong = served.connect()
        instance = kong.start()
        for _ in range(2):
            calls = kong.run(instance)
            assert [method for method, _ in calls] == [
                *("kong.log.warn", "kong.log.err", "kong.response.set_header"),
                *("kong.log.crit", "kong.response.exit"),
            ]
            assert calls[0][1] == ["p: no cache"]
            assert "\n" not in calls[1][1][0]
            assert calls[3][1] == ["p: token …"]
        served.wait_idle()


@pytest.mark.parametrize("kind", ["", "async "])
def test_code_that_goes_on_after_exit_holds_up_no_other_request_of_its_connection(
    tmp_path: Path, kind: str
) -> None:
    """Once, Kong's next request on that connection waited for it, and was let by after 60 s."""
    wait, call = ("await ", "await asyncio.sleep(30)") if kind else ("", "time.sleep(30)")
    body = f"""
        import asyncio
        if self.config:
            {wait}kong.response.exit(403, "no")
            {call}
    """
    source = plugin(body).replace("def access", f"{kind}def access")
    options = ServiceOptions(timeout_s=3.0, concurrency=64, owns_process=False)
    with serving(tmp_path, source, service_options=options) as served:
        kong = served.connect()
        exits, passes = kong.start('{"exit": true}'), kong.start("{}")
        for _ in range(3):
            assert kong.run(exits) == [("kong.response.exit", [403, "no"])]
            assert kong.run(passes) == []
        served.wait_idle()  # The time limit is over.
        assert kong.run(passes) == []
        served.wait_idle()


def logged(folder: Path, source: str) -> tuple[list[tuple[str, list[Any]]], str]:
    """The calls of one event, and what the log has of its exception."""
    with capture_logs() as logs, serving(folder, source) as served:
        kong = served.connect()
        calls = kong.run(kong.start())
        served.wait_idle()
        served.service.stop(1)
    return calls, "\n".join(str(entry.get("exception")) for entry in logs)


def test_an_unknown_name_is_told_with_the_nearest(tmp_path: Path) -> None:
    calls, told = logged(tmp_path, plugin("kong.request.get_heder('x')"))
    assert calls == [REFUSED]
    assert "Did you mean kong.request.get_header?" in told


def test_an_argument_that_cannot_be_sent_is_named(tmp_path: Path) -> None:
    calls, told = logged(tmp_path, plugin("kong.response.set_header('x', {1, 2})"))
    assert calls == [REFUSED]
    assert "TypeError: kong.response.set_header: argument 2, a set, cannot" in told


def test_an_exception_of_init_is_an_error_for_each_request(tmp_path: Path) -> None:
    with serving(tmp_path, plugin("pass", init="raise ValueError('boom')")) as served:
        kong = served.connect()
        for _ in range(2):
            kong.send(wire.START_INSTANCE, {"Name": "p", "Config": "{}"})
            answer = kong.answer()
            assert isinstance(answer.error, str)
            # Else Kong would start instances without end.
            assert "no plugin instance" not in answer.error.lower()


def test_an_exception_in_the_log_phase_ends_the_event(tmp_path: Path) -> None:
    with serving(tmp_path, plugin("kong.log.notice('x'); raise ValueError", phase="log")) as served:
        kong = served.connect()
        assert kong.run(kong.start(), "log") == [("kong.log.notice", ["x"])]


def test_open_is_for_those_who_ask_for_it(tmp_path: Path) -> None:
    calls, told = logged(tmp_path, plugin("raise ValueError('boom')") + "\non_error = 'open'\n")
    assert calls == []
    assert "ValueError: boom" in told


def test_the_status_of_failures_is_the_operators(tmp_path: Path) -> None:
    options = ServiceOptions(failure_status=503, failure_headers=(("Retry-After", "5"),), owns_process=False)
    with serving(tmp_path, plugin("raise ValueError"), service_options=options) as served:
        kong = served.connect()
        ((method, arguments),) = kong.run(kong.start())
        assert (method, arguments) == (
            "kong.response.exit",
            [503, {"message": "Service unavailable"}, {"Retry-After": "5"}],
        )


AFTER_EXIT = {
    "it goes on": "kong.response.exit(403, 'no'); kong.response.exit(200, 'yes')",
    "except Exception": """
        try:
            kong.response.exit(403, 'no')
            kong.response.set_header('x', 'y')
        except Exception:
            kong.response.exit(200, 'yes')""",
    "except everything": """
        try:
            kong.response.exit(403, 'no')
            kong.response.set_header('x', 'y')
        except BaseException:
            pass
        kong.response.exit(200, 'yes')""",
    "it raises": "kong.response.exit(403, 'no'); raise ValueError",
    "finally": """
        try:
            kong.response.exit(403, 'no')
        finally:
            kong.response.exit(200, 'yes')""",
}


@pytest.mark.parametrize("what", AFTER_EXIT)
def test_the_first_exit_counts(tmp_path: Path, what: str) -> None:
    with serving(tmp_path, plugin(AFTER_EXIT[what])) as served:
        kong = served.connect()
        instance = kong.start()
        for _ in range(2):
            assert kong.run(instance) == [("kong.response.exit", [403, "no"])]
        served.wait_idle()


AT_ONE_TIME = {
    "threads": """
from concurrent.futures import ThreadPoolExecutor

pool = ThreadPoolExecutor(4)

class Plugin:
    def __init__(self, config): ...

    def access(self, kong):
        values = pool.map(lambda name: kong.request.get_header(name)[0], "abcdefgh")
        if list(values) != list("abcdefgh"):
            raise ValueError
        kong.response.exit(403, "no")
""",
    "tasks": """
import asyncio

class Plugin:
    def __init__(self, config): ...

    async def access(self, kong):
        values = await asyncio.gather(*(kong.request.get_header(name) for name in "abcdefgh"))
        if values != list("abcdefgh"):
            raise ValueError
        await kong.response.exit(403, "no")
""",
    "threads that it leaves": """
from concurrent.futures import ThreadPoolExecutor

pool = ThreadPoolExecutor(1)

class Plugin:
    def __init__(self, config): ...

    def access(self, kong):
        pool.submit(kong.log.info, "left")
        kong.request.get_header("a")
        asked = pool.submit(kong.request.get_header, "b")
        while not (asked.running() or asked.done()):
            pass
""",
    "a thread that it leaves as it fails": """
from concurrent.futures import ThreadPoolExecutor

pool = ThreadPoolExecutor(1)

class Plugin:
    def __init__(self, config): ...

    def access(self, kong):
        asked = pool.submit(kong.request.get_header, "b")
        while not (asked.running() or asked.done()):
            pass
        raise ValueError
""",
}


@pytest.mark.parametrize("what", AT_ONE_TIME)
def test_calls_at_one_time_take_turns_and_the_connection_is_served_on(tmp_path: Path, what: str) -> None:
    """Once, the second ended its event as if Kong had, and the request passed before it was looked at."""
    with serving(tmp_path, AT_ONE_TIME[what]) as served:
        kong = served.connect()
        instance = kong.start()
        for _ in range(5):
            result = kong.event(instance)
            while (asked := result["Data"]) != "ret" and asked["Method"] != "kong.response.exit":
                result = kong.step(result["EventId"], asked["Args"][0])
            if what == "threads that it leaves":
                assert asked == "ret"
            elif "fails" in what:
                assert asked["Args"] == REFUSED[1]
            else:
                assert asked["Args"] == [403, "no"]


#: The phase leaves it at work.
A_THREAD_WITHOUT_PAUSE = """
import threading
from concurrent.futures import ThreadPoolExecutor

pool = ThreadPoolExecutor(1)

class Plugin:
    def __init__(self, config): ...

    def access(self, kong):
        def ask():
            while True:
                kong.request.get_header("b")
                asked.set()

        asked = threading.Event()
        pool.submit(ask)
        asked.wait()
"""
WITHOUT_PAUSE = {
    "a thread, at the end": A_THREAD_WITHOUT_PAUSE,
    "a thread, as the phase asks": A_THREAD_WITHOUT_PAUSE
    + """\
        for _ in range(3):
            kong.request.get_header("a")
""",
    "a task": """
import asyncio

class Plugin:
    def __init__(self, config): ...

    async def access(self, kong):
        async def ask():
            while True:
                await kong.request.get_header("b")

        task = asyncio.create_task(ask())
        task.add_done_callback(print)
        await asyncio.sleep(0)
        for _ in range(3):
            await kong.request.get_header("a")
""",
}


@pytest.mark.parametrize("what", WITHOUT_PAUSE)
def test_what_asks_without_pause_holds_up_neither_the_phase_nor_its_end(tmp_path: Path, what: str) -> None:
    """Once, the phase came to nothing until its time was over, or was refused at its end."""
    with serving(tmp_path, WITHOUT_PAUSE[what]) as served:
        kong = served.connect()
        instance = kong.start()
        for _ in range(5):
            assert {method for method, _ in kong.run(instance)} == {"kong.request.get_header"}
        served.wait_idle()


def test_what_is_told_at_the_end_waits_for_no_thread_that_asks_without_pause(tmp_path: Path) -> None:
    source = A_THREAD_WITHOUT_PAUSE + "        __import__('logging').warning('end')\n"
    with serving(tmp_path, source, PluginOptions(name="p", tells_kong=True)) as served:
        kong = served.connect()
        calls = kong.run(kong.start())
        assert calls[-1] == ("kong.log.warn", ["p: end"])
        assert {method for method, _ in calls[:-1]} == {"kong.request.get_header"}
        served.wait_idle()


def test_code_after_exit_runs_up_to_its_next_call(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    body = f"""
        kong.response.exit(403)
        __import__('pathlib').Path({str(marker)!r}).write_text('1')
        kong.log.err('x')
        raise ValueError
    """
    with serving(tmp_path, plugin(body)) as served:
        kong = served.connect()
        kong.run(kong.start())
        served.wait_idle()
    assert marker.read_text() == "1"


def test_a_plugin_that_hangs_is_answered_for_and_holds_up_nobody(tmp_path: Path) -> None:
    go_on, went_on = tmp_path / "go_on", tmp_path / "went_on"
    body = f"""
        from pathlib import Path
        if kong.request.get_header('x')[0] == 'hang':
            while not Path({str(go_on)!r}).exists():
                time.sleep(0.01)
            Path({str(went_on)!r}).touch()
            kong.response.set_header('late', 'x')
    """
    options = ServiceOptions(timeout_s=1.0, concurrency=100, owns_process=False)
    with serving(tmp_path, plugin(body), service_options=options) as served:
        hanging, other = served.connect(), served.connect()
        instance = hanging.start()
        event = hanging.event(instance)
        hanging.send(wire.STEP, {"EventId": event["EventId"], "Data": "hang"})
        assert other.run(instance, get_header="ok")
        answer = hanging.answer()
        assert answer.result["Data"] == {"Method": REFUSED[0], "Args": REFUSED[1]}
        # The connection is read on, though the thread that read it hangs.
        assert hanging.run(instance, get_header="ok")
        served.wait_idle()
        go_on.touch()
        until(went_on.exists)
        assert hanging.run(instance, get_header="ok")


@pytest.mark.parametrize(("timeout_s", "most_queued_s"), [(1000.0, 0.5), (1.0, 2.5)])
def test_what_comes_while_all_threads_hang_is_refused_and_all_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timeout_s: float, most_queued_s: float
) -> None:
    """Once, it waited until one was free: without end, where as many hung as may be given up."""
    monkeypatch.setattr("coprocess.gateways.kong.overdue.MOST_QUEUED_S", most_queued_s)
    go_on = tmp_path / "go_on"
    body = f"""
        from pathlib import Path
        while self.config and not Path({str(go_on)!r}).exists():
            time.sleep(0.01)
    """
    options = ServiceOptions(timeout_s=timeout_s, concurrency=1024, owns_process=False)
    with serving(tmp_path, plugin(body), service_options=options, max_threads=4) as served:
        kong = served.connect()
        hangs, passes = kong.start('{"hangs": true}'), kong.start()
        hanging = [served.connect() for _ in range(12)]
        until(lambda: not served.engine._threads.busy)
        for each in hanging:
            each.begin(hangs)
        answers: list[Any] = []
        left = {each.socket: each for each in hanging}
        ends = timeout_s < 1000
        while len(answers) < (12 if ends else 8):
            readable = select.select(list(left), [], [], PATIENCE_S)[0]
            assert readable
            answers += [left.pop(each).answer().result["Data"] for each in readable]
        assert answers == [{"Method": REFUSED[0], "Args": REFUSED[1]}] * len(answers)
        if ends:
            # Those that are given up, those that take their place, and those for which there is none.
            until(lambda: served.engine.abandoned_thread_count == 4)
        else:
            late = kong.send(wire.START_INSTANCE, {"Name": "p", "Config": "{}"})
            answer = kong.answer()
            assert (answer.id, answer.error) == (late, "the plugin server is overloaded")
            assert kong.run(passes) == [REFUSED]
        served.engine._overdue.most_queued_s = 60
        for state in served.service.gates.states:
            state.timeout_s = 60
        go_on.touch()
        assert [each.answer().result["Data"] for each in left.values()] == ["ret"] * len(left)
        until(lambda: not served.engine.abandoned_thread_count)
        assert [each.run(passes) for each in [kong, *hanging]] == [[]] * 13
        served.wait_idle()


def test_text_that_is_no_utf8_reaches_the_plugin_and_goes_back(tmp_path: Path) -> None:
    body = "v = kong.request.get_query_arg('q')[0]; kong.response.set_header('x', v)"
    with serving(tmp_path, plugin(body)) as served:
        kong = served.connect()
        instance = kong.start()
        event = kong.event(instance)
        (raw,) = [
            wire.pack_as_kong([0, 99, wire.STEP, [{"EventId": event["EventId"], "Data": "\udce9t\udcff"}]])
        ]
        assert b"\xe9t\xff" in raw
        kong.socket.sendall(raw)
        assert kong.answer().result["Data"]["Args"] == ["x", "\udce9t\udcff"]
        kong.step(event["EventId"])


# Kong's connections.


def test_a_step_may_come_on_another_connection(tmp_path: Path) -> None:
    body = """
        kong.response.set_header('x', kong.request.get_raw_body()[0])
        kong.response.set_header('y', 1)
    """
    with serving(tmp_path, plugin(body)) as served:
        one, other = served.connect(), served.connect()
        instance = one.start()
        first = one.event(instance)
        # Its connection serves another request meanwhile.
        second = one.event(instance)
        result = other.step(first["EventId"], b"first")
        assert result["Data"]["Args"] == ["x", b"first"]
        assert other.step(first["EventId"])["Data"]["Args"] == ["y", 1]
        assert other.step(first["EventId"])["Data"] == "ret"
        assert one.step(second["EventId"], b"second")["Data"]["Args"] == ["x", b"second"]
        one.step(second["EventId"])
        assert one.step(second["EventId"])["Data"] == "ret"
        assert other.run(instance)
        served.wait_idle()


def test_a_step_crosses_where_kong_waits_for_nobody(tmp_path: Path) -> None:
    with serving(tmp_path, plugin("kong.request.get_method(); kong.request.get_path()")) as served:
        one, other = served.connect(), served.connect()
        instance = one.start()
        event = one.event(instance)
        assert other.step(event["EventId"], "GET")["Data"]["Method"] == "kong.request.get_path"
        assert other.step(event["EventId"], "/")["Data"] == "ret"
        assert one.run(instance)
        served.wait_idle()


def test_events_whose_step_never_comes_give_their_threads_back(tmp_path: Path) -> None:
    """After an error in Lua, Kong tells nothing: it goes on with another event."""
    with serving(tmp_path, plugin("kong.request.get_header(5); kong.log.err('never')")) as served:
        kong = served.connect()
        instance = kong.start()
        for _ in range(300):
            kong.event(instance)
        kong.close()
        served.wait_idle()
        assert served.engine.late.lost_events == 300
        assert served.engine.thread_count < 40


def test_uploads_that_break_off_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_steps, "_MOST_WAITING", 10)
    with serving(tmp_path, plugin("kong.request.get_raw_body()")) as served:
        kong = served.connect()
        instance = kong.start()
        for _ in range(40):
            kong.event(instance)
        until(lambda: len(served.engine.events) <= 12)
        last = max(served.engine.events)
        # Those that wait still are served.
        assert kong.step(last, b"x")["Data"] == "ret"
        for event_id in list(served.engine.events):
            kong.step(event_id, b"x")
        served.wait_idle()


def test_a_step_of_an_event_that_is_over_refuses_the_request(tmp_path: Path) -> None:
    with serving(tmp_path, plugin("pass")) as served:
        kong = served.connect()
        for event_id in (12345, "x", None, 1.5):
            result = kong.ask(wire.STEP, {"EventId": event_id, "Data": "x"})
            assert result["Data"] == {"Method": REFUSED[0], "Args": REFUSED[1]}


def test_a_connection_that_is_gone_ends_its_event(tmp_path: Path) -> None:
    with serving(tmp_path, plugin("kong.request.get_method(); kong.request.get_path()")) as served:
        instance = None
        for _ in range(20):
            kong = served.connect()
            instance = kong.start()
            kong.event(instance)
            kong.close()
        served.wait_idle()
        kong = served.connect()
        assert kong.run(instance)


# Instances.


def test_an_instance_that_is_not_known_is_started_anew(tmp_path: Path) -> None:
    with serving(tmp_path, plugin("pass")) as served:
        kong = served.connect()
        for instance in (7, "x", None, [1], {"a": 1}):
            kong.begin(instance)
            answer = kong.answer()
            assert "no plugin instance" in answer.error
        assert kong.run(kong.start()) == []


def test_a_server_after_another_gives_other_ids_and_says_who_it_is(tmp_path: Path) -> None:
    """Once, both counted from 0: an event of before ran with another's configuration."""
    known: list[tuple[int, int]] = []
    for _ in range(2):
        # `connect` expects that the server says who it is.
        with serving(tmp_path, plugin("kong.request.get_path()")) as served:
            kong = served.connect()
            own = kong.start()
            for instance, event_id in known:
                kong.begin(instance)
                assert "no plugin instance" in kong.answer().error
                assert event_id not in served.engine.events
            known.append((own, kong.event(own)["EventId"]))
    ((instance, event_id), (other_instance, other_event_id)) = known
    assert instance != other_instance
    assert event_id != other_event_id


def test_instances_have_their_own_configuration_until_they_are_closed(tmp_path: Path) -> None:
    source = plugin("kong.response.set_header('x', self.config['a']); self.config['a'] += '!'")
    with serving(tmp_path, source) as served:
        kong = served.connect()
        one, two = kong.start('{"a": "1"}'), kong.start('{"a": "2"}')
        assert one != two
        assert kong.run(one)[0][1] == ["x", "1"]
        assert kong.run(two)[0][1] == ["x", "2"]
        assert kong.run(one)[0][1] == ["x", "1!"]
        closed = kong.ask(wire.CLOSE_INSTANCE, one)
        assert closed == {"Name": "p", "Id": one, "Config": {"a": "1"}}
        kong.begin(one)
        assert "no plugin instance" in kong.answer().error


def test_instances_that_kong_forgot_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coprocess.gateways.kong.instances.MOST_INSTANCES", 10)
    with serving(tmp_path, plugin("pass")) as served:
        kong = served.connect()
        first = kong.start()
        forgotten = kong.start()
        for _ in range(30):
            kong.start()
            kong.run(first)
        kong.begin(forgotten)
        assert "no plugin instance" in kong.answer().error


# Frames of strangers.

NO_MESSAGES = [
    b"\xc1",
    b"\xc0",
    b"\x2a",
    b"\x90",
    b"\x93\x00\x01\xa1x",
    wire.pack([0, "x", "plugin.Step", [1]]),
    wire.pack([1, 1, None, "x"]),
    wire.pack([0, 1, 5, [1]]),
    b"\x91" * 2000,
    b"\xdd\xff\xff\xff\xff",
]


@pytest.mark.parametrize("data", NO_MESSAGES)
def test_what_is_no_message_is_answered_so_that_kong_refuses_the_request(tmp_path: Path, data: bytes) -> None:
    with serving(tmp_path, plugin("pass")) as served:
        kong, good = served.connect(), served.connect()
        kong.socket.sendall(data)
        # To a text, or a closed connection, Kong lets the request by.
        assert isinstance(kong.answer().error, dict)
        with pytest.raises(EOFError):
            kong.receive()
        assert good.run(good.start()) == []


@pytest.mark.parametrize(
    ("method", "argument"),
    [
        (wire.HANDLE_EVENT, None),
        (wire.HANDLE_EVENT, {}),
        (wire.HANDLE_EVENT, []),
        (wire.HANDLE_EVENT, {"InstanceId": 0, "EventName": "start"}),
        (wire.HANDLE_EVENT, {"InstanceId": 0, "EventName": "init_worker"}),
        (wire.HANDLE_EVENT, {"InstanceId": 0, "EventName": ["access"]}),
        (wire.HANDLE_EVENT, {"InstanceId": 0, "EventName": "rewrite"}),
    ],
)
def test_an_event_that_is_none_refuses_the_request(tmp_path: Path, method: str, argument: Any) -> None:
    with serving(tmp_path, plugin("pass")) as served:
        kong = served.connect()
        own = kong.start()
        if isinstance(argument, dict) and "InstanceId" in argument:
            argument = {**argument, "InstanceId": own}
        assert kong.ask(method, argument)["Data"] == {"Method": REFUSED[0], "Args": REFUSED[1]}


@pytest.mark.parametrize(
    "argument",
    [
        None,
        {},
        {"Name": "p"},
        {"Name": "p", "Config": "x"},
        {"Name": "p", "Config": "[]"},
        {"Name": "q", "Config": "{}"},
    ],
)
def test_an_instance_that_cannot_be_started_is_an_error(tmp_path: Path, argument: Any) -> None:
    with serving(tmp_path, plugin("pass")) as served:
        kong = served.connect()
        kong.send(wire.START_INSTANCE, argument)
        assert isinstance(kong.answer().error, str)
        assert kong.run(kong.start()) == []


def test_an_unknown_plugin_and_phase_are_named(tmp_path: Path) -> None:
    """Once, they were a hook of type 210, and no event."""
    with serving(tmp_path, plugin("pass")) as served:
        kong = served.connect()
        instance = kong.start()
        kong.send(wire.START_INSTANCE, {"Name": "nosuch", "Config": "{}"})
        assert kong.answer().error == "no plugin 'nosuch'; there are: p"
        for phase, told in (
            ("acess", "'acess' is no phase"),
            ("rewrite", "the plugin 'p' has no phase rewrite"),
        ):
            with capture_logs() as logs:
                kong.event(instance, phase)
            assert any(told in str(entry.get("reason")) for entry in logs), logs


def test_the_nearest_of_an_unknown_name_is_looked_for_once(tmp_path: Path) -> None:
    """Once, each request looked for it, which took 6 ms and more."""
    with serving(tmp_path, plugin("kong.request.get_hedr('x')")) as served:
        kong = served.connect()
        instance = kong.start()
        kong.run(instance)
        looked_for = pdk.unknown_name.cache_info().misses
        kong.run(instance)
        assert pdk.unknown_name.cache_info().misses == looked_for
        assert pdk.unknown_name.cache_info().maxsize == 256


def test_an_unknown_method_is_an_error(tmp_path: Path) -> None:
    with serving(tmp_path, plugin("pass")) as served:
        kong = served.connect()
        kong.send("plugin.GetSecrets", {})
        # To a text, Kong would let the request by.
        assert "no method of a plugin server" in kong.answer().error["error"]
        assert kong.run(kong.start()) == []


def test_a_step_of_a_kind_that_is_new_is_a_step(tmp_path: Path) -> None:
    """Once, it was no method, and a text told Kong so: the request passed."""
    with serving(tmp_path, plugin("kong.log(kong.router.get_route())")) as served:
        kong, other = served.connect(), served.connect()
        asked = kong.event(kong.start())
        answer = kong.step(asked["EventId"], {"id": "r"}, "plugin.StepOfAnotherKong")
        assert answer["Data"]["Args"] == ["({'id': 'r'}, None)"]
        assert kong.step(answer["EventId"])["Data"] == "ret"
        assert other.step(answer["EventId"], 1, "plugin.StepX")["Data"]["Method"] == "kong.response.exit"


@pytest.mark.parametrize("phase", ["access", "rewrite"])
@pytest.mark.parametrize(("kind", "number"), [(False, 7), (0, "x"), (0, True), (0.0, 7)])
def test_a_step_of_its_own_that_is_no_message_ends_the_event(
    tmp_path: Path, phase: str, kind: Any, number: Any
) -> None:
    """Once, it was an exception in the plugin, and nobody was answered."""
    source = (
        plugin("kong.request.get_method()")
        + """
    async def rewrite(self, kong):
        await kong.request.get_method()
"""
    )
    with serving(tmp_path, source) as served:
        kong, good = served.connect(), served.connect()
        instance = good.start()
        asked = kong.event(instance, phase)
        kong.socket.sendall(
            wire.pack([kind, number, wire.STEP, [{"EventId": asked["EventId"], "Data": "GET"}]])
        )
        assert isinstance(kong.answer().error, dict)
        with pytest.raises(EOFError):
            kong.receive()
        assert good.run(instance) == [("kong.request.get_method", [])]
        served.wait_idle()


def test_hostile_frames_beside_good_events(tmp_path: Path) -> None:
    frame = wire.pack_request(1, wire.HANDLE_EVENT, {"InstanceId": 0, "EventName": "access"})
    rng = random.Random(3)  # noqa: S311 - no secret
    with serving(tmp_path, plugin("kong.request.get_method()"), max_message_bytes=2**16) as served:
        good = served.connect()
        instance = good.start()
        failed: list[BaseException] = []

        def send_hostile() -> None:
            for _ in range(300):
                data = bytearray(frame)
                for _ in range(rng.randint(1, 5)):
                    data[rng.randrange(len(data))] = rng.randrange(256)
                kong = served.connect()
                try:
                    kong.socket.sendall(bytes(data[: rng.randint(1, len(data))]))
                except OSError as error:
                    failed.append(error)
                kong.close()

        hostile = threading.Thread(target=send_hostile)
        hostile.start()
        while hostile.is_alive():
            assert good.run(instance, get_method="GET") == [("kong.request.get_method", [])]
        hostile.join()
        assert not failed
        served.wait_idle()


def test_a_thousand_connections(tmp_path: Path) -> None:
    with serving(tmp_path, plugin("kong.request.get_method()")) as served:
        kongs = [served.connect() for _ in range(300)]
        instance = kongs[0].start()
        for kong in kongs:
            kong.begin(instance)
        for kong in kongs:
            assert kong.step(kong.answer().result["EventId"], "GET")["Data"] == "ret"
        served.wait_idle()


# Async phases.

ASYNC = """
import asyncio
import pathlib
import time

TOGETHER = asyncio.Barrier(100)

class Plugin:
    def __init__(self, config):
        self.config = config

    async def access(self, kong):
        what = await kong.request.get_header("x")
        if what == "raise":
            raise ValueError
        if what == "together":
            await TOGETHER.wait()
        if what == "exit":
            await kong.aio.response.exit(403, "no")
            await kong.response.exit(200, "yes")
        if what == "body":
            await kong.response.set_header("b", await kong.request.get_raw_body())
        while what == "block" and not pathlib.Path(self.config["go_on"]).exists():
            time.sleep(0.005)
        if what == "large":
            await kong.response.set_header("l", "x" * 300_000)
        await kong.response.set_header("y", what)
"""


def test_async_phases(tmp_path: Path) -> None:
    with serving(tmp_path, ASYNC) as served:
        kong = served.connect()
        instance = kong.start()
        for _ in range(3):
            assert kong.run(instance, get_header="ok")[-1] == ("kong.response.set_header", ["y", "ok"])
            assert kong.run(instance, get_header="raise")[-1] == REFUSED
            assert kong.run(instance, get_header="exit")[-1] == ("kong.response.exit", [403, "no"])
            calls = kong.run(instance, get_header="body", get_raw_body=b"abc")
            assert calls[-2:] == [
                ("kong.response.set_header", ["b", b"abc"]),
                ("kong.response.set_header", ["y", "body"]),
            ]
            assert len(kong.run(instance, get_header="large")[-2][1][1]) == 300_000
        served.wait_idle()


@pytest.mark.filterwarnings("error")  # That a coroutine was never awaited is told by us, and not by Python.
@pytest.mark.parametrize("tells_kong", [False, True])
@pytest.mark.parametrize(
    ("body", "refused_for"),
    [
        ("kong.response.exit(401, 'no')", "kong.response.exit"),
        ("self.kept = kong.request.get_header('x')", "kong.request.get_header"),
        ("await kong.request.get_path(); kong.log.err('x')", "kong.log.err"),
        ("kong.call('kong.request.get_path')", "kong.request.get_path"),
        ("await asyncio.gather(kong.request.get_path(), kong.request.get_method())", ""),
        ("await asyncio.create_task(kong.request.get_path())", ""),
        ("self.kept = asyncio.create_task(kong.request.get_path())", ""),
        ("asyncio.create_task(kong.request.get_path()).cancel()", ""),
    ],
)
def test_an_async_call_that_is_not_awaited_refuses_the_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], body: str, refused_for: str, tells_kong: bool
) -> None:
    """Once, an exit without await let the request by."""
    source = f"""
import asyncio
class Plugin:
    def __init__(self, config): ...
    async def access(self, kong):
        {body}
"""
    with serving(tmp_path, source, PluginOptions(name="p", tells_kong=tells_kong)) as served:
        kong = served.connect()
        instance = kong.start()
        calls = kong.run(instance)
        gc.collect()
        assert (calls[-1:] == [REFUSED]) is bool(refused_for), calls
        served.wait_idle()
    logged = capsys.readouterr().out
    if refused_for:
        assert f'access hook "p" failed: {refused_for} was not awaited' in logged
    else:
        assert "not awaited" not in logged


def test_async_phases_wait_beside_each_other(tmp_path: Path) -> None:
    with serving(tmp_path, ASYNC) as served:
        kongs = [served.connect() for _ in range(100)]
        instance = kongs[0].start()
        events = [kong.event(instance)["EventId"] for kong in kongs]
        for kong, event_id in zip(kongs, events, strict=True):
            kong.send(wire.STEP, {"EventId": event_id, "Data": "together"})
        for kong, event_id in zip(kongs, events, strict=True):
            assert kong.answer().result["Data"]["Args"] == ["y", "together"]
            assert kong.step(event_id)["Data"] == "ret"
        served.wait_idle()


def test_steps_of_async_phases_may_cross_and_stay_away(tmp_path: Path) -> None:
    with serving(tmp_path, ASYNC) as served:
        one, other = served.connect(), served.connect()
        instance = one.start()
        first = one.event(instance)["EventId"]
        one.step(first, "body")
        second = one.event(instance)["EventId"]  # While Kong waits for the body of the first.
        assert other.step(first, b"abc")["Data"]["Args"] == ["b", b"abc"]
        # Kong never goes on with the second: it has raised in Lua.
        one.event(instance)
        assert other.step(first)["Data"]["Args"] == ["y", "body"]
        assert other.step(first)["Data"] == "ret"
        assert second not in served.engine.events
        one.close()
        served.wait_idle()


def test_an_async_phase_that_blocks_the_loop_is_answered_for(tmp_path: Path) -> None:
    options = ServiceOptions(timeout_s=0.2, owns_process=False)
    with serving(tmp_path, ASYNC, service_options=options) as served:
        kong, go_on = served.connect(), tmp_path / "go_on"
        instance = kong.start(json.dumps({"go_on": str(go_on)}))
        event = kong.event(instance)
        result = kong.step(event["EventId"], "block")
        assert result["Data"] == {"Method": REFUSED[0], "Args": REFUSED[1]}
        go_on.touch()
        # Once the loop is free, or another has taken its place.
        until(lambda: kong.run(instance, get_header="ok")[-1] == ("kong.response.set_header", ["y", "ok"]))


def test_python_style_gives_values_and_raises(tmp_path: Path) -> None:
    body = """
        try:
            kong.response.set_header('x', kong.request.get_header('a'))
        except Exception as error:
            kong.response.set_header('e', f'{type(error).__name__}: {error}')
    """
    with serving(tmp_path, plugin(body), PluginOptions(name="p", lua_style=False)) as served:
        kong = served.connect()
        instance = kong.start()
        assert kong.run(instance, get_header="v")[-1] == ("kong.response.set_header", ["x", "v"])
        event = kong.event(instance)
        result = kong.step(event["EventId"], "broken", wire.STEP_ERROR)
        assert result["Data"]["Args"] == ["e", "PDKException: exception from kong.request.get_header: broken"]
        kong.step(event["EventId"])


def test_a_connection_given_back_after_the_stop_is_closed(tmp_path: Path) -> None:
    with serving(tmp_path, plugin("pass")) as served:
        kong = served.connect()
        kong.run(kong.start())
        served.wait_idle()
    ours, theirs = socket.socketpair()
    others, there = socket.socketpair()
    queued, behind = socket.socketpair()
    with ours, theirs, others, there, queued, behind:
        served.engine.resume(Connection(ours, 1))
        served.engine.resume_at_once(Connection(others, 1))
        # By who looks for what is overdue, which this is not.
        until(lambda: served.engine._threads.count == 0)
        connection = Connection(queued, 1)
        served.engine._tasks.put((connection, None))
        served.engine._overdue.since_s[connection] = time.monotonic()
        assert not served.engine._overdue._refuse_next()
        assert ours.fileno() == others.fileno() == queued.fileno() == -1
