"""The simulated Envoy gives what each recording of the real one has, and the comparison misses nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coprocess.cli.app import app
from coprocess.desk.envoy.simulator import replay
from coprocess.gateways.envoy import wire

ROOT = Path(__file__).parents[2]
RECORDINGS = ROOT / "tests/data/envoy/recordings"
ALL = ROOT.parent / "shared/envoy/recordings"

Change = Callable[[dict[str, Any]], None]


def changed(folder: Path, name: str, change: Change) -> list[str]:
    """The problems of a recording after `change`."""
    content = json.loads((RECORDINGS / f"{name}.json").read_text())
    change(content)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    return list(replay([path]).problems)


def test_every_recording_is_given() -> None:
    report = replay(sorted((ALL if ALL.is_dir() else RECORDINGS).glob("*.json")))

    assert report.problems == ()
    assert len(report.replayed) >= 50


def test_recordings_of_the_tests_are_given() -> None:
    assert replay(sorted(RECORDINGS.glob("*.json"))).ok


def envoys_messages(content: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        message
        for stream in content["streams"]
        if stream["service"] == "ext_proc"
        for message in stream["messages"]
        if message["from"] == "envoy" and isinstance(message.get("raw"), str)
    ]


def with_another_header(raw: str) -> str:
    message = wire.ProcessingRequest.FromString(base64.b64decode(raw))
    kind = message.WhichOneof("request") or ""
    part = getattr(message, kind)
    if "headers" in kind:
        part.headers.headers[-1].raw_value += b"?"
    elif "body" in kind:
        part.body += b"?"
    else:
        part.trailers.headers[-1].raw_value += b"?"
    return base64.b64encode(message.SerializeToString()).decode()


def test_every_message_is_compared(tmp_path: Path) -> None:
    unnoticed = []
    for path in sorted(RECORDINGS.glob("*.json")):
        for index in range(len(envoys_messages(json.loads(path.read_text())))):

            def change(content: dict[str, Any], index: int = index) -> None:
                message = envoys_messages(content)[index]
                message["raw"] = with_another_header(message["raw"])

            if not changed(tmp_path, path.stem, change):
                unnoticed.append(f"{path.stem} {index}")
    assert unnoticed == []


def shift_status(content: dict[str, Any]) -> None:
    content["http_response"]["status"] = (content["http_response"].get("status") or 0) + 1


def add_response_header(content: dict[str, Any]) -> None:
    content["http_response"]["headers"].append(["x-more", "1"])


def lose_body(content: dict[str, Any]) -> None:
    content["http_response"]["body"] = base64.b64encode(b"another").decode()


def another_target(content: dict[str, Any]) -> None:
    content["upstream_request"]["target"] += "x"


def another_upstream_header(content: dict[str, Any]) -> None:
    content["upstream_request"]["headers"][0][1] += "x"


def no_upstream(content: dict[str, Any]) -> None:
    content["upstream_request"] = None


def stream_less(content: dict[str, Any]) -> None:
    content["streams"].pop()


def other_metadata(content: dict[str, Any]) -> None:
    content["streams"][0]["initial_metadata"].append(["x-more", "1"])


def other_logged_metadata(content: dict[str, Any]) -> None:
    content["access_log"][0]["my_ns"] = {"more": 1}


@pytest.mark.parametrize(
    ("name", "change", "part"),
    [
        ("headers_default", shift_status, "http response: status"),
        ("headers_default", add_response_header, "http response: headers"),
        ("headers_default", lose_body, "http response: body"),
        ("headers_default", another_target, "upstream request: target"),
        ("headers_default", another_upstream_header, "upstream request: headers"),
        ("headers_default", stream_less, "streams: expected"),
        ("headers_default", other_metadata, "initial_metadata"),
        ("dynamic_metadata", other_logged_metadata, "access log: my_ns"),
        ("content_length_set", no_upstream, "upstream request"),
        ("authz_ok_headers", another_upstream_header, "upstream request: headers"),
    ],
)
def test_each_part_is_compared(tmp_path: Path, name: str, change: Change, part: str) -> None:
    assert any(part in text for text in changed(tmp_path, name, change))


def first_reply(content: dict[str, Any], reply: wire.ProcessingResponse) -> None:
    message = next(each for each in content["streams"][0]["messages"] if each["from"] == "server")
    message["raw"] = base64.b64encode(reply.SerializeToString()).decode()
    message["json"] = {"request_headers": {}}


def test_replies_are_what_is_played(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        reply = wire.ProcessingResponse()
        option = reply.request_headers.response.header_mutation.set_headers.add()
        option.header.key, option.header.raw_value = "x-other", b"1"
        first_reply(content, reply)

    assert any("'x-other', '1'" in text for text in changed(tmp_path, "headers_default", change))


def unknown_filter_field(content: dict[str, Any]) -> None:
    content["envoy"]["http_filters"][0]["typed_config"]["shiny_mode"] = True


def unknown_filter(content: dict[str, Any]) -> None:
    content["envoy"]["http_filters"][0]["typed_config"]["@type"] = "type.googleapis.com/envoy.Lua"


def unknown_service(content: dict[str, Any]) -> None:
    content["streams"][0]["service"] = "als"


def unknown_key(content: dict[str, Any]) -> None:
    content["http_request"]["tunnel"] = 1


def unknown_body_mode(content: dict[str, Any]) -> None:
    content["envoy"]["http_filters"][0]["typed_config"]["processing_mode"] = {
        "request_body_mode": "WEBTRANSPORT"
    }


def unknown_message_field(content: dict[str, Any]) -> None:
    message = content["streams"][0]["messages"][0]
    message["raw"] = base64.b64encode(base64.b64decode(message["raw"]) + b"\xfa\x07\x01x").decode()


def digest_of_anything(content: dict[str, Any]) -> None:
    content["http_request"]["body"] = {"length": 5, "sha256": "0" * 64}


def no_messages(content: dict[str, Any]) -> None:
    del content["streams"][0]["messages"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (unknown_filter_field, "typed_config: shiny_mode: the simulated Envoy does not know this field"),
        (unknown_filter, "http_filters[0]: envoy.Lua is not simulated"),
        (unknown_service, "streams[0]: the service 'als' is not known: expected ext_proc or ext_authz"),
        (unknown_key, "http_request: tunnel: not known here"),
        (unknown_body_mode, "request_body_mode: expected one of NONE, STREAMED, BUFFERED"),
        (unknown_message_field, "streams[0].messages[0]: the message has fields that are not known here"),
        (digest_of_anything, "a body of 5 bytes is given by its digest"),
        (no_messages, "it has no 'messages'"),
    ],
)
def test_what_is_not_known_is_told(tmp_path: Path, change: Change, told: str) -> None:
    [problem] = changed(tmp_path, "headers_default", change)

    assert problem.startswith("headers_default.json: cannot be replayed: ")
    assert told in problem


def test_the_command(tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text("[]")

    good = CliRunner().invoke(app, ["envoy", "replay", str(RECORDINGS / "chain.json")])
    both = CliRunner().invoke(app, ["envoy", "replay", str(RECORDINGS / "chain.json"), str(bad)])

    assert (good.exit_code, good.stdout) == (0, "1 recording replayed, 0 differences\n")
    assert both.exit_code == 1
    assert both.stdout.startswith("bad.json: cannot be replayed: ")
