"""The simulator against recordings of a real gateway, and the replay against falsified recordings."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coprocess.desk.tyk.simulator import ApiDefinition, replay
from coprocess.gateways.tyk import wire

DATA = Path(__file__).parent / "data"
APIS = DATA / "apis"
RECORDINGS = {path.stem: path for path in sorted((DATA / "recordings").glob("*.json"))}

Json = dict[str, Any]


def load(name: str) -> Json:
    content: Json = json.loads(RECORDINGS[name].read_text(encoding="utf-8"))
    return content


def chain(name: str) -> list[Path]:
    follows = load(name)["follows"]
    return [*(chain(follows) if follows else []), RECORDINGS[name]]


def test_there_are_recordings() -> None:
    assert len(RECORDINGS) >= 78


@pytest.mark.parametrize("name", RECORDINGS)
def test_recording(name: str) -> None:
    report = replay(chain(name), APIS)
    assert report.problems == ()
    assert name in report.replayed
    assert report.ok


def test_recordings_in_any_order() -> None:
    report = replay(reversed(RECORDINGS.values()), APIS)
    assert report.problems == ()
    assert set(report.replayed) == set(RECORDINGS)
    assert str(report) == f"{len(RECORDINGS)} recordings replayed, 0 differences"


@pytest.mark.parametrize("name", ["oas_auth_rejected", "oas_full_chain", "oas_id_extractor_hit"])
def test_recording_with_the_oas_definition(name: str, tmp_path: Path) -> None:
    (tmp_path / "oasapi.json").write_bytes((APIS / "oasapi-oas.json").read_bytes())
    assert replay(chain(name), tmp_path).problems == ()


def flip_object_byte(recording: Json) -> None:
    call = recording["dispatches"][0]
    changed = (
        base64.b64decode(call["object"]).replace(b"/keyless/", b"/keyles5/").replace(b"/chain/", b"/chaim/")
    )
    call["object"] = base64.b64encode(changed).decode()


def edit_object(edit: Callable[[wire.Object], None], index: int = 0) -> Callable[[Json], None]:
    def falsify(recording: Json) -> None:
        call = recording["dispatches"][index]
        message = wire.Object.FromString(base64.b64decode(call["object"]))
        edit(message)
        call["object"] = base64.b64encode(message.SerializeToString()).decode()

    return falsify


def add_unknown_field(recording: Json) -> None:
    call = recording["dispatches"][0]
    # Field 100, a varint: of a gateway that is newer than this protocol.
    call["object"] = base64.b64encode(base64.b64decode(call["object"]) + b"\xa0\x06\x01").decode()


def set_path(*path: str | int, value: Any) -> Callable[[Json], None]:
    def falsify(recording: Json) -> None:
        target: Any = recording
        for step in path[:-1]:
            target = target[step]
        target[path[-1]] = value

    return falsify


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def drop_a_header(recording: Json) -> None:
    headers = recording["http_response"]["headers"]
    headers.remove(next(pair for pair in headers if pair[0] == "Set-Cookie"))


META = ("events", 0, "message", "Meta")

FALSIFIED: dict[str, tuple[str, Callable[[Json], None], str]] = {
    "a byte of an object": ("resp_untouched", flip_object_byte, "dispatch 0 (First): object request."),
    "a field of an object": (
        "auth_ok",
        edit_object(lambda message: message.session.ClearField("monitor"), 3),
        "object session.monitor: expected nothing",
    ),
    "a clock field that is not near": (
        "auth_ok",
        edit_object(lambda message: setattr(message.session, "quota_renews", 1), 3),
        "session.quota_renews: expected 1, got nothing",
    ),
    "an unknown field": ("auth_ok", add_unknown_field, "fields that this protocol version does not know"),
    "a hook type": ("auth_ok", set_path("dispatches", 0, "hook_type", value=2), "expected (2, 'MyPre"),
    "a hook name": (
        "auth_ok",
        set_path("dispatches", 0, "hook_name", value="Other"),
        "expected (1, 'Other')",
    ),
    "a status": (
        "auth_ok",
        set_path("dispatches", 0, "status", value="INTERNAL"),
        "does not go with its reply",
    ),
    "a lost dispatch": ("resp_untouched", lambda r: r["dispatches"].pop(), "dispatches: expected ['First'"),
    "an added dispatch": (
        "resp_untouched",
        lambda r: r["dispatches"].append(r["dispatches"][-1]),
        "dispatches: expected",
    ),
    "an added event": (
        "auth_rejected_401",
        lambda r: r["events"].append(r["events"][0]),
        "events: expected ['AuthFailure', 'AuthFailure'], got ['AuthFailure']",
    ),
    "an event in a case without": (
        "auth_ok",
        lambda r: r["events"].extend(load("auth_rejected_401")["events"]),
        "events: expected ['AuthFailure'], got []",
    ),
    "a lost event": ("auth_rejected_401", lambda r: r["events"].clear(), "events: expected []"),
    "an event's key": (
        "auth_expired_session",
        set_path(*META, "Key", value="x"),
        "event 0: message.Meta.Key",
    ),
    "an event's request": (
        "auth_rejected_401",
        set_path(*META, "OriginatingRequest", value=b64("GET / HTTP/1.1")),
        "event 0: message.Meta.OriginatingRequest",
    ),
    "an event's time": (
        "auth_rejected_401",
        set_path("events", 0, "message", "TimeStamp", value="yesterday"),
        "event 0: TimeStamp 'yesterday'",
    ),
    "a header's value": (
        "auth_ok",
        set_path("http_response", "headers", 0, value=["Content-Length", "12"]),
        "http response: header Content-Length: expected ['12'], got ['11']",
    ),
    "a lost header": ("auth_ok", drop_a_header, "http response: header Set-Cookie"),
    "the body": (
        "auth_ok",
        set_path("http_response", "body", value=b64('{"ok":null}')),
        "http response: body: expected b'{\"ok\":null}'",
    ),
    "the status": (
        "auth_ok",
        set_path("http_response", "status", value=201),
        "status: expected 201, got 200",
    ),
    "a connection that is not dropped": (
        "reply_without_request",
        set_path("http_response", value={"status": 200, "headers": [], "body": ""}),
        "expected status 200, got none: the reply has no request",
    ),
    "a connection that is": (
        "auth_ok",
        set_path("http_response", value={"status": None, "error": "RemoteDisconnected"}),
        "expected a dropped connection, got status 200",
    ),
    "the upstream's url": (
        "add_params",
        set_path("upstream_request", "url", value="/q?b=2&a=9&c=x+y"),
        "upstream request: url: expected '/q?b=2",
    ),
    "the upstream's header": (
        "add_params",
        lambda r: r["upstream_request"]["headers"].append(["X-More", "1"]),
        "upstream request: header X-More: expected ['1'], got []",
    ),
    "the upstream's body": (
        "form_post",
        set_path("upstream_request", "body", value=""),
        "upstream request: body",
    ),
    "no upstream request": (
        "add_params",
        set_path("upstream_request", value=None),
        "upstream request: expected None",
    ),
    "a lost upstream reply": (
        "add_params",
        set_path("upstream_reply", value=None),
        "http response: status: expected 200, got 500",
    ),
    "another api": ("add_params", set_path("api", value="chain"), "got 404"),
    "an api that is not there": (
        "add_params",
        set_path("api", value="nowhere"),
        "nowhere.json: cannot be read",
    ),
}


@pytest.mark.parametrize("case", FALSIFIED)
def test_falsified_recording_is_noticed(case: str, tmp_path: Path) -> None:
    name, falsify, expected = FALSIFIED[case]
    recording = load(name)
    falsify(recording)
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(recording), encoding="utf-8")
    report = replay([path], APIS)
    assert not report.ok
    assert any(problem.startswith(f"{name}: ") and expected in problem for problem in report.problems), str(
        report
    )


def test_near_quota_renewal_is_the_clock(tmp_path: Path) -> None:
    """`Date` has whole seconds, the gateway counts from the fraction: two seconds are no difference."""
    recording = load("auth_ok")
    reply = wire.Object.FromString(base64.b64decode(recording["dispatches"][1]["reply"]))
    reply.session.quota_max = 5
    reply.session.quota_renewal_rate = 60
    recording["dispatches"][1]["reply"] = base64.b64encode(reply.SerializeToString()).decode()
    path = tmp_path / "auth_ok.json"
    path.write_text(json.dumps(recording), encoding="utf-8")
    reset = next(problem for problem in replay([path], APIS).problems if "X-Ratelimit-Reset" in problem)
    renews = int(reset.rpartition("['")[2].removesuffix("']"))
    for offset, tolerated in ((2, True), (-2, True), (3, False)):
        headers = recording["http_response"]["headers"]
        next(pair for pair in headers if pair[0] == "X-Ratelimit-Reset")[1] = str(renews + offset)
        path.write_text(json.dumps(recording), encoding="utf-8")
        found = any("X-Ratelimit-Reset" in problem for problem in replay([path], APIS).problems)
        assert found is not tolerated


def test_upstream_values_in_the_order_that_hooks_saw(tmp_path: Path) -> None:
    """Recordings sort an upstream's headers: `b=2` may have come before `a=1`."""
    recording = load("resp_untouched")
    for call in recording["dispatches"]:
        for part in ("object", "reply"):
            message = wire.Object.FromString(base64.b64decode(call[part]))
            for header in message.response.multivalue_headers:
                if header.key == "Set-Cookie":
                    header.values[:] = ["b=2", "a=1"]
                    message.response.headers["Set-Cookie"] = "b=2"
            call[part] = base64.b64encode(message.SerializeToString()).decode()
    path = tmp_path / "resp_untouched.json"
    path.write_text(json.dumps(recording), encoding="utf-8")
    assert replay([path], APIS).problems == ()


def test_follows_a_missing_recording() -> None:
    report = replay([RECORDINGS["rate_limit_exceeded"]], APIS)
    assert report.replayed == ()
    assert report.problems == (
        "rate_limit_exceeded: cannot be replayed: "
        "rate_limit_exceeded follows rate_limit_first, which is missing",
    )


def test_follows_itself(tmp_path: Path) -> None:
    path = tmp_path / "auth_ok.json"
    path.write_text(json.dumps(load("auth_ok") | {"follows": "auth_ok"}), encoding="utf-8")
    assert replay([path], APIS).problems == ("auth_ok: cannot be replayed: auth_ok follows itself",)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"name": "x"}'])
def test_not_a_recording(content: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.json"
    path.write_text(content, encoding="utf-8")
    (problem,) = replay([path], APIS).problems
    assert problem.startswith("odd.json: not a recording")


def test_two_recordings_of_one_name() -> None:
    report = replay([RECORDINGS["auth_ok"], RECORDINGS["auth_ok"]], APIS)
    assert report.problems == ("auth_ok.json: a second recording named auth_ok",)


def test_nothing_replayed_is_not_ok() -> None:
    assert not replay([], APIS).ok


def test_both_forms_of_a_definition_are_one() -> None:
    assert ApiDefinition.load(APIS / "oasapi-oas.json") == ApiDefinition.load(APIS / "oasapi.json")
