"""The simulated Kong against recordings of a real one; and a replay that finds what differs."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgpack
import pytest
from typer.testing import CliRunner

from coprocess.cli.app import app
from coprocess.desk.kong.replay import replay, replay_content
from tests.kong_desk.recorded import content, files


def test_every_recording_comes_out_as_it_was() -> None:
    report = replay(files())
    assert report.ok, report
    assert len(report.replayed) >= 10


def sent_by_kong(case: Any, method: str) -> Any:
    return next(
        frame
        for frame in case["frames"]
        if frame.get("dir") == "kong>py" and frame.get("msg") and frame["msg"][2] == f"plugin.{method}"
    )


def rewrite(frame: Any, message: Any) -> None:
    frame["msg"] = message
    frame["raw"] = base64.b64encode(msgpack.packb(message, use_bin_type=True)).decode()


def test_other_data_in_a_step_is_found() -> None:
    case = content("req-query")
    frame = sent_by_kong(case, "StepMultiMap")
    message = json.loads(json.dumps(frame["msg"]))
    message[3][0]["Data"]["a"] = ["2"]
    rewrite(frame, message)
    found = replay_content(case)
    assert found
    assert "[3][0].Data.a[0]: expected '2', got '1'" in found[0]


def test_text_in_the_place_of_bin_is_found() -> None:
    case = content("resp-raw-body-bin")
    frame = sent_by_kong(case, "Step")
    rewrite(frame, [*frame["msg"][:3], [{"EventId": frame["msg"][3][0]["EventId"], "Data": "text"}]])
    assert any("Data: expected 'text'" in text for text in replay_content(case) or ())


def test_a_whole_number_in_the_place_of_a_float_is_found() -> None:
    case = content("roundtrip-types")
    frame = next(
        frame
        for frame in case["frames"]
        if frame["dir"] == "kong>py" and (frame.get("msg") or [0, 0, "", [{}]])[3][0].get("Data") == 1
    )
    message = frame["msg"]
    rewrite(frame, [*message[:3], [{**message[3][0], "Data": 1.0}]])
    assert any("Data: expected 1.0, got 1" in text for text in replay_content(case) or ())


def test_a_frame_too_many_and_one_too_few_are_found() -> None:
    case = content("req-query")
    frame = sent_by_kong(case, "Step")
    case["frames"].remove(frame)
    assert replay_content(case)
    case = content("req-query")
    case["frames"].append({**sent_by_kong(case, "HandleEvent"), "t": 9.0})
    assert any("the simulated one nothing" in text for text in replay_content(case) or ())


def test_instances_may_have_text_for_ids_also_of_two_workers() -> None:
    """Once, a worker was taken for the other."""
    case = content("parallel-two-workers")
    for frame in case["frames"]:
        message = frame.get("msg")
        if not isinstance(message, list):
            continue
        argument = message[3][0] if frame["dir"] == "kong>py" else message[3]
        for name in {"Id", "InstanceId"} & argument.keys():
            argument[name] = f"instance {argument[name]}"
            rewrite(frame, message)
    assert replay_content(case) == []


def without_last_answer(name: str) -> Any:
    case = content(name)
    last = [frame for frame in case["frames"] if frame.get("dir") == "py>kong" and frame.get("msg")][-1]
    assert last["msg"][3]["Data"] == "ret"
    case["frames"].remove(last)
    return case


def test_an_answer_that_is_missing_is_told_also_where_nothing_depends_on_it(tmp_path: Path) -> None:
    """Once, it was told where another frame came after it, only."""
    assert replay_content(without_last_answer("req-query")) == [
        "connection 1: the recording lacks the answer to what Kong sent last, and Kong went on before its "
        "time was over"
    ]
    # A recording may end before a log phase does.
    path = tmp_path / "case.json"
    path.write_text(json.dumps(without_last_answer("upload-abort")))
    report = replay([path])
    assert report.ok
    [left_out] = report.left_out
    assert left_out == "upload-abort: connection 1: the recording lacks the answer to what Kong sent last"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda case: case["exchanges"][0]["response"].update(status_line="HTTP/1.1 201 Created"),
            "status line",
        ),
        (lambda case: case["exchanges"][0]["response"]["headers"].append(["X-New", "1"]), "header x-new"),
        (lambda case: case["exchanges"][0]["response"].update(body_b64="e30="), "body: expected b'{}'"),
        (lambda case: case["upstream"][0].update(line="GET /other HTTP/1.1"), "upstream 0: line"),
        (lambda case: case["upstream"].clear(), "upstream: expected 0 requests, got 1"),
    ],
)
def test_another_result_is_found(change: Any, told: str) -> None:
    case = content("req-query")
    change(case)
    assert any(told in text for text in replay_content(case) or ())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda case: case["frames"][0].update(event="exploded"), "event 'exploded' is none that is known"),
        (lambda case: case["frames"][1].update(dir="up"), "dir 'up'"),
        (lambda case: case.pop("frames"), "a form that is not known"),
        (lambda case: case.pop("upstream"), "it has no 'upstream'"),
        (
            lambda case: case["declarative"]["services"][0]["routes"][0]["plugins"].append({"name": "acl"}),
            "plugin 'acl' is not one that is simulated",
        ),
    ],
)
def test_what_is_not_known_is_a_clear_error(change: Any, told: str, tmp_path: Path) -> None:
    case = content("req-query")
    change(case)
    path = tmp_path / "case.json"
    path.write_text(json.dumps(case))
    report = replay([path])
    assert not report.ok
    assert told in report.problems[0]


def test_a_call_that_is_not_simulated_is_named(tmp_path: Path) -> None:
    case = content("req-query")
    frame = next(
        frame for frame in case["frames"] if frame.get("dir") == "py>kong" and "Data" in str(frame.get("msg"))
    )
    data = {"Method": "kong.jwe.encrypt", "Args": []}
    rewrite(frame, [*frame["msg"][:3], {**frame["msg"][3], "Data": data}])
    path = tmp_path / "case.json"
    path.write_text(json.dumps(case))
    assert "kong.jwe.encrypt: a real Kong has it" in replay([path]).problems[0]


def test_the_command_tells_differences_and_its_exit_status(tmp_path: Path) -> None:
    good = tmp_path / "good.json"
    case = content("req-query")
    good.write_text(json.dumps(case))
    result = CliRunner().invoke(app, ["kong", "replay", str(good)])
    assert result.exit_code == 0
    assert result.output == "1 recording replayed, 0 differences\n"
    case["exchanges"][0]["response"]["status_line"] = "HTTP/1.1 418 "
    case["name"] = "bad"
    (tmp_path / "bad.json").write_text(json.dumps(case))
    result = CliRunner().invoke(app, ["kong", "replay", str(tmp_path)])
    assert result.exit_code == 1
    assert "bad: exchange 0: status line" in result.output
    assert "2 recordings replayed, 1 difference\n" in result.output
