"""`coprocess call`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import Command, call
from tests.loading import write
from tests.objects import RECORDINGS


def test_call_from_flags(coprocess: Command) -> None:
    done = call(
        coprocess,
        *("Pre", "stamp", "-X", "PUT", "--url", "/a", "-H", "x-given: g", "--data", "four"),
        *("--api-id", "an-api", "--config-data", '{"colour": "red"}'),
    )

    assert done.status == 0, done.errors
    assert "an-api red g" in done.output
    assert [line for line in done.output.splitlines() if line.startswith("+") and "add_params" in line]
    assert not [line for line in done.output.splitlines() if line.startswith("- ")]


def test_call_that_changes_nothing_says_so(coprocess: Command) -> None:
    done = call(coprocess, "Pre", "idle")

    assert (done.status, done.output) == (0, "nothing changed\n")


def test_call_of_an_async_hook_of_one_api(coprocess: Command) -> None:
    assert "async" in call(coprocess, "Pre", "stamp_async", "--api-id", "only-this").output
    [line] = call(coprocess, "Pre", "stamp_async", "--api-id", "other").failed()
    assert 'Pre "stamp_async" (API "only-this" only)' in line


def test_call_of_a_response_hook(coprocess: Command) -> None:
    done = call(coprocess, "Response", "less", "--status", "201", "--response-data", "quiet")

    for line in ("201", "203", "quiet", "QUIET"):
        assert line in done.output


def test_call_of_a_hook_that_stops_the_chain(coprocess: Command) -> None:
    done = call(coprocess, "Pre", "stops")

    assert done.status == 0
    assert "402" in done.output
    assert "Pay first" in done.output


def test_call_has_a_store(coprocess: Command, tmp_path: Path) -> None:
    done = call(coprocess, "Pre", "stores")

    assert "from the store" in done.output, done.errors
    assert not list(tmp_path.iterdir()), "it left something in the working folder"


def test_call_shows_the_events_that_are_triggered(coprocess: Command) -> None:
    done = call(coprocess, "Pre", "triggers")

    assert (done.status, done.errors) == (0, 'event on_something: {"n": 1}\n')


def test_call_of_a_handler_that_fails_shows_its_traceback(coprocess: Command) -> None:
    lines = call(coprocess, "Pre", "fails").failed()

    assert "  ValueError: the cause" in lines
    assert lines[-1] == 'coprocess: Pre hook "fails" raised ValueError'


def test_call_of_an_unknown_hook(coprocess: Command) -> None:
    [line] = call(coprocess, "Post", "stamp").failed()

    assert line.startswith('coprocess: no Post hook "stamp" for API ""; loaded, nearest first: Pre "stamp"')


@pytest.mark.parametrize("arguments", [("Pre", "idle", "-H", "no colon"), ("Prae", "idle")])
def test_call_with_wrong_arguments(coprocess: Command, arguments: tuple[str, ...]) -> None:
    [line] = call(coprocess, *arguments).failed()

    assert line.startswith("coprocess: ")
    assert "xpected" in line


def test_call_of_an_event_handler_says_what_sends_it_one(coprocess: Command) -> None:
    [line] = call(coprocess, "Event", "on_something").failed()

    assert "coprocess try" in line
    assert 'dispatch.event("on_something", "AuthFailure", meta={})' in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("Pre", "idle", "-d", "@gone"), "--data @gone: cannot be read: No such file or directory"),
        (("Response", "less", "--response-data", "@gone"), "--response-data @gone: cannot be read"),
        # It was told of the hook, which had not set it.
        (("Response", "less", "--status", "42"), "--status 42. Expected: a status, 100 to 999"),
        (("Pre", "idle", "--config-data", "{"), "--config-data: Expecting property name"),
        (("Pre", "idle", "--config-data", "[1]"), "--config-data [1]: is no object. Expected: a JSON object"),
    ],
    ids=str,
)
def test_call_with_what_no_gateway_sends(coprocess: Command, arguments: tuple[str, ...], says: str) -> None:
    [line] = call(coprocess, *arguments).failed()

    assert line.startswith(f"coprocess: {says}")


def test_call_reads_a_body_from_a_file(coprocess: Command, tmp_path: Path) -> None:
    write(tmp_path, {"handlers/body.py": READS_BODY, "body.txt": "of a file"})

    done = coprocess("call", "Pre", "read", "-d", "@body.txt")

    assert (done.status, done.output) == (0, "+ request.set_headers.X-Body: of a file\n")


READS_BODY = """
from coprocess import Pre, Request

@Pre
def read(request: Request) -> None:
    request.headers["X-Body"] = request.text
"""


def test_call_from_a_recording(coprocess: Command) -> None:
    done = call(coprocess, "CustomKeyCheck", "admit", "--recording", RECORDINGS / "auth_ok.json")

    assert done.status == 0, done.errors
    assert "session" in done.output
    assert "tok" in done.output


def test_call_from_a_recording_without_such_a_dispatch(coprocess: Command) -> None:
    path = RECORDINGS / "auth_rejected_401.json"

    [line] = call(coprocess, "Response", "less", "--recording", path).failed()

    assert line.startswith(f"coprocess: {path}: has no Response dispatch. It has: ")
    assert line.endswith("It has: Pre, CustomKeyCheck")


@pytest.mark.parametrize(
    ("content", "text"), [("{}", "not a recording"), ("]", "not a recording"), (None, "cannot be read")]
)
def test_call_from_what_is_no_recording(
    coprocess: Command, tmp_path: Path, content: str | None, text: str
) -> None:
    if content is not None:
        write(tmp_path, {"x.json": content})

    [line] = call(coprocess, "Pre", "idle", "--recording", "x.json").failed()

    assert line.startswith(f"coprocess: x.json: {text}: ")


def test_call_of_a_server_that_is_not_there(coprocess: Command, tmp_path: Path) -> None:
    [line] = call(coprocess, "Pre", "idle", "--address", f"unix:{tmp_path}/none.sock").failed()

    assert line.startswith(f"coprocess: unix:{tmp_path}/none.sock: UNAVAILABLE")


ASKS = """from tyk.decorators import *
@Post
def who(request, session, metadata, spec):
    request.add_header("X-Who", session.alias + " " + metadata["team"] + " {bundle}")
    return request, session
"""


def test_call_with_a_session_metadata_and_a_bundle(coprocess: Command, tmp_path: Path) -> None:
    files = {f"handlers/{name}/p.py": ASKS.replace("{bundle}", name) for name in ("one", "two")}
    files |= {f"handlers/{name}/manifest.json": "{}" for name in ("one", "two")}
    write(tmp_path, {**files, "session.json": '{"alias": "from a file"}'})
    given = ("call", "Post", "who", "--metadata", "team=red", "--bundle")

    done = coprocess(*given, "two", "--session", '{"alias": "somebody"}')
    assert "+ request.set_headers.X-Who: somebody red two" in done.output, done.errors
    # A definition names it with or without .zip.
    done = coprocess(*given, "one.zip", "--session", "@session.json")
    assert "+ request.set_headers.X-Who: from a file red one" in done.output, done.errors


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--session", "x", "--session: "),
        ("--session", "[]", "is no JSON object"),
        ("--session", '{"alais": "x"}', "alais"),
        ("--session", "@gone.json", "gone.json: cannot be read"),
        ("--metadata", "x", "expected KEY=VALUE"),
    ],
)
def test_call_with_a_caller_that_cannot_be(
    option: str, value: str, says: str, coprocess: Command, tmp_path: Path
) -> None:
    write(tmp_path, {"handlers/p.py": ASKS})

    [line] = coprocess("call", "Post", "who", option, value).failed()

    assert line.startswith("coprocess: ")
    assert says in line
