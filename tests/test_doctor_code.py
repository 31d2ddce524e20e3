"""What the doctor reads in the handlers' source."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.doctor_world import World

#: Rule, severity, which handler, its statement, a word of the explanation.
FAULTS = [
    ("auth-no-token", "error", "old_auth", "session.rate = 1.0", "403"),
    ("auth-no-token", "error", "old_auth", 'metadata["tokn"] = "x"', 'metadata["token"]'),
    ("auth-no-token", "error", "old_auth", 'metadata.get("token")', "every request is refused"),
    ("handler-edit-ignored", "error", "old_pre", 'r.object.headers["A"] = "b"', "add_header"),
    ("handler-edit-ignored", "error", "old_pre", 'r.headers["A"] = "b"', "add_header"),
    ("handler-edit-ignored", "error", "old_pre", 'r.object.params.pop("a")', "add_param"),
    (
        "handler-edit-ignored",
        "error",
        "pre",
        'o = request.object; h = o.headers; del h["A"]',
        "request.headers",
    ),
    ("handler-body-edit", "note", "old_pre", 'r.object.body = "b"', "raw_body"),
    ("handler-body-edit", "note", "old_resp", 'response.body = "b"', "raw_body"),
    ("handler-session-edit", "warning", "post", 'session.metadata["a"] = "b"', "CustomKeyCheck"),
    ("handler-session-edit", "warning", "post", 'session.allow("x")', "gone"),
    ("handler-session-edit", "warning", "old_pre", "s.rate = 5.0", "gone"),
    (
        "handler-response-request-edit",
        "error",
        "old_resp",
        "request.object.return_overrides.response_code = 401",
        "return_overrides",
    ),
    ("handler-response-request-edit", "error", "resp", 'request.headers["A"] = "b"', "Edit the response"),
    ("handler-response-request-edit", "error", "old_resp", 'request.add_header("A", "b")', "ignores"),
    ("handler-override-status", "error", "old_pre", "r.object.return_overrides.response_code = 42", "500"),
    (
        "handler-override-status",
        "error",
        "old_pre",
        "r.object.return_overrides.response_code = -5",
        "ignores",
    ),
    ("handler-override-status", "error", "old_pre", "r.object.return_overrides.response_code = 1000", "500"),
    ("handler-override-status", "error", "old_resp", "response.status_code = 0", "drop the connection"),
    ("handler-override-status", "error", "pre", 'raise Reject(302, "x")', "400 to 599"),
    ("handler-override-status", "error", "pre", "return coprocess.respond(status=99)", "200 to 999"),
    (
        "handler-override-without-status",
        "error",
        "old_pre",
        'r.object.return_overrides.response_error = "no"',
        "response_code",
    ),
    ("handler-answer-dropped", "error", "pre", 'Reject(401, "x")', "raise Reject"),
    ("handler-answer-dropped", "error", "pre", 'return Reject(401, "x")', "500"),
    ("handler-answer-dropped", "error", "pre", "respond(204)", "return respond"),
    ("handler-host-header", "error", "old_pre", 'r.add_header("host", "x")', "target_url"),
    ("handler-host-header", "error", "old_pre", 'r.object.set_headers["Host"] = "x"', "ignores"),
    ("handler-host-header", "error", "pre", 'request.headers["HOST"] = "x"', "raises"),
    ("handler-url", "error", "old_pre", 'r.object.url = "relative"', "slash"),
    ("handler-url", "warning", "old_pre", 'r.object.url = ""', "keeps"),
    ("handler-url", "warning", "pre", 'request.url = "/a?b=c"', "query"),
    ("handler-blocking-async", "warning", "slow", "time.sleep(1)", "asyncio"),
    ("handler-blocking-async", "warning", "slow", 'store.get("k")', "store.aio"),
]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize(("rule", "severity", "slot", "statement", "says"), FAULTS)
def test_a_fault_in_a_handler_is_found(
    rule: str, severity: str, slot: str, statement: str, says: str, world: World
) -> None:
    world.code[slot] = statement

    (finding,) = world.examine()

    assert (finding.rule, finding.severity.value) == (rule, severity)
    lines = finding.file.read_text().splitlines()
    # A handler that does not do something is pointed at as a whole.
    pointed_at = "def old_auth" if rule == "auth-no-token" else statement
    assert pointed_at in lines[finding.line - 1]
    assert says in f"{finding.problem} {finding.effect} {finding.remedy}"


def test_a_helper_that_blocks_is_found(world: World) -> None:
    world.code["slow"] = "_helper()"
    world.extra = "\ndef _helper():\n    time.sleep(1)\n"

    (finding,) = world.examine()

    assert finding.rule == "handler-blocking-async"
    assert "time.sleep(1)" in finding.file.read_text().splitlines()[finding.line - 1]


def test_blocking_is_all_right_in_a_plain_function(world: World) -> None:
    world.code["pre"] = "time.sleep(0)"

    assert world.examine() == []


def test_a_handler_under_hook_is_judged_by_where_definitions_name_it(world: World) -> None:
    world.files["handlers/any.py"] = (
        "from tyk.decorators import *\n@Hook\ndef anywhere(request, session, metadata, spec):\n    pass\n"
    )
    assert [finding.rule for finding in world.examine()] == ["handler-unused"]

    world.middleware["auth_check"] = {"name": "anywhere"}
    assert "auth-no-token" in {finding.rule for finding in world.examine()}


@pytest.mark.parametrize(
    ("slot", "statement"),
    [
        ("old_auth", 'metadata.update({"token": "x"})'),
        ("old_auth", 'session.metadata["token"] = "x"'),
        ("old_auth", 'name = "token"; metadata[name] = "x"'),
        ("old_auth", "_let_in(metadata)"),
        ("old_auth", "elsewhere.authenticate(session)"),
        ("pre", 'request.headers["A"] = request.object.headers["B"]'),
        ("pre", "request.object.raw_body = b'x'"),
        ("pre", 'raise Reject(401, "x")'),
        ("pre", "return respond(204)"),
        ("pre", 'request.url = "/a"'),
        ("slow", "await asyncio.to_thread(time.sleep, 1)"),
        ("slow", 'await store.aio.get("k")'),
        ("post", 'request.headers["A"] = session.alias'),
        ("resp", 'response.headers["A"] = request.headers["B"]'),
        ("old_pre", "r.object.return_overrides.response_code = -1"),
        ("old_pre", 'o = r.object.return_overrides; o.response_code = 401; o.response_error = "x"'),
        ("old_resp", 'response.headers["A"] = "b"; response.raw_body = b"x"'),
        ("event", 'event["seen"] = True'),
    ],
)
def test_sound_code_raises_no_alarm(slot: str, statement: str, world: World) -> None:
    world.code[slot] = statement
    helper = '\ndef _let_in(metadata):\n    metadata["token"] = "t"\n'
    world.files["handlers/helper.py"] = helper
    if "_let_in" in statement:
        world.code["old_auth"] = f"from helper import _let_in; {statement}"

    assert world.examine() == []
