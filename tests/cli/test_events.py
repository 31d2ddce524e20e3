"""`coprocess events config`: what it prints is sound, for the doctor and for the listener."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coprocess.desk.tyk.doctor.events import EVENTS, OF_THE_MONITOR, OF_TYK_CONF
from coprocess.desk.tyk.events_config import OVER_GRPC, SECRET_ITSELF
from tests.cli.commands import Command
from tests.doctor_world import World

HANDLER = """
from coprocess import Event

@Event
def on_event(event):
    pass
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers" / "a.py").write_text(HANDLER)
    return tmp_path


def made_by(coprocess: Command, *flags: str) -> Any:
    done = coprocess("events", "config", "--json", *flags)
    assert done.status == 0, done.errors
    return json.loads(done.output)


def test_webhooks_are_only_where_grpc_carries_nothing(coprocess: Command, project: Path) -> None:
    made = made_by(coprocess, "--url=http://plugins:5556/", "--api-id=two", "--org-id=o")

    over_grpc = made["classic"]["event_handlers"]["events"]
    of_conf = made["tyk_conf"]["event_handlers"]["events"]
    in_oas = made["oas"]["x-tyk-api-gateway"]["server"]["eventHandlers"]
    assert made["template"] == '<script type="application/json">{{.}}</script>'
    assert set(over_grpc) == set(OVER_GRPC) == set(EVENTS) - {*OF_TYK_CONF, OF_THE_MONITOR}
    assert over_grpc["AuthFailure"] == [
        {"handler_name": "cp_dynamic_handler", "handler_meta": {"name": "on_event"}}
    ]
    assert set(of_conf) == set(OF_TYK_CONF)
    webhook = made["tyk_conf"]["monitor"]["configuration"]
    assert webhook == of_conf["TokenCreated"][0]["handler_meta"]
    assert (webhook["target_path"], webhook["method"], webhook["event_timeout"]) == (
        "http://plugins:5556/events/on_event",
        "POST",
        1,
    )
    assert in_oas[0]["url"] == "http://plugins:5556/events/on_event?api_id=two&org_id=o"
    assert {each["trigger"] for each in in_oas} == set(OVER_GRPC) - {"OAuth2ScopeCheckFailed"}


def test_the_doctor_finds_nothing_in_what_is_printed(coprocess: Command, project: Path) -> None:
    world = World(project / "world")
    world.folder.mkdir()
    made = made_by(coprocess, "--url=http://127.0.0.1:5556", "--api-id=two")
    made["tyk_conf"] = json.loads(json.dumps(made["tyk_conf"]).replace(SECRET_ITSELF, "$secret"))
    world.events.update(made["classic"]["event_handlers"]["events"])
    world.conf.update(made["tyk_conf"])
    world.gateway["server"]["eventHandlers"] = made["oas"]["x-tyk-api-gateway"]["server"]["eventHandlers"]

    assert world.examine() == []


def test_handlers_of_one_api_are_in_the_parts_of_that_api_only(coprocess: Command, project: Path) -> None:
    of_one = [f'@Event(api_id="a{n}", name="two")\ndef two_{n}(event):\n    pass\n' for n in (1, 2)]
    (project / "handlers" / "b.py").write_text("from coprocess import Event\n\n" + "\n\n".join(of_one))

    made = made_by(coprocess, "--url=http://h", "--api-id=a2", "--event=AuthFailure", "--event=TokenCreated")

    def urls(parts: Any) -> list[str]:
        return [each["url"] for each in parts["oas"]["x-tyk-api-gateway"]["server"]["eventHandlers"]]

    def names(parts: Any) -> list[str]:
        events = parts["classic"]["event_handlers"]["events"]["AuthFailure"]
        return [each["handler_meta"]["name"] for each in events]

    assert urls(made) == [f"http://h/events/{name}?api_id=a2&org_id=ORG_ID" for name in ("on_event", "two")]
    assert list(made["apis"]) == ["a1"]
    assert urls(made["apis"]["a1"])[1] == "http://h/events/two?api_id=a1&org_id=ORG_ID"
    assert names(made) == names(made["apis"]["a1"]) == ["on_event", "two"]
    for_all = made["tyk_conf"]["event_handlers"]["events"]["TokenCreated"]
    assert [each["handler_meta"]["target_path"] for each in for_all] == ["http://h/events/on_event"]


def test_a_handler_that_only_a_webhook_names_is_used(project: Path) -> None:
    world = World(project / "world")
    world.folder.mkdir()
    world.events.clear()
    unused = [finding.rule for finding in world.examine()]
    world.conf["monitor"] = {
        "configuration": {
            "method": "POST",
            "target_path": "http://h/events/on_event",
            "template_path": "t.json",
            "header_map": {"X-Coprocess-Secret": "s"},
            "event_timeout": 1,
        }
    }

    assert unused == ["handler-unused"]
    assert world.examine() == []


def test_the_text_has_every_part_and_no_secret(coprocess: Command, project: Path) -> None:
    env = {"COPROCESS_EVENTS_LISTEN": "127.0.0.1:5556", "COPROCESS_EVENTS_SECRET": "geheimes-wort"}

    done = coprocess("events", "config", "--event=TokenCreated", "--event=AuthFailure", env=env)

    assert done.status == 0
    assert "geheimes" not in done.output
    for part in (
        '<script type="application/json">{{.}}</script>',
        "X-Coprocess-Secret",
        "http://127.0.0.1:5556/events/on_event",
        '"AuthFailure"',
        '"TokenCreated"',
    ):
        assert part in done.output
    assert "HostDown" not in done.output
    assert "monitor" not in done.output


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "events_listen is off"),
        (["--url=http://h", "--event=AuthFailur"], "fires no such event. Expected: AuthFailure"),
        (["--url=http://h", "--template-path=x.tmpl"], "ends in .json"),
        (["--url=h"], "--url h: is no URL of a server. Expected: http://HOST:PORT"),
        (["--url=ftp://h"], "--url ftp://h: is no URL of a server"),
        (["--url=http://h:99999"], "--url http://h:99999: is no URL of a server"),
    ],
)
def test_what_is_wrong_is_a_sentence(coprocess: Command, project: Path, flags: list[str], says: str) -> None:
    done = coprocess("events", "config", *flags)

    assert done.status == 1
    assert says in done.errors


def test_without_an_event_function_there_is_nothing_to_print(coprocess: Command, tmp_path: Path) -> None:
    (tmp_path / "handlers").mkdir()

    done = coprocess("events", "config", "--url=http://h")

    assert done.status == 1
    assert "no @Event function is loaded" in done.errors
