"""Each planted fault is found, by its rule and nothing else; what is sound gives no finding."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from coprocess.desk.tyk.doctor import RULES, Severity, examine, read_project
from coprocess.process.config import Settings
from tests.doctor_cases import CASES, Case
from tests.doctor_world import World
from tests.test_doctor_code import FAULTS

ROOT = Path(__file__).parents[1]
APIS = Path(__file__).parent / "data" / "apis"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_sound_project_gives_no_finding(world: World) -> None:
    assert world.examine() == []


@pytest.mark.parametrize("case", CASES, ids=[f"{case.rule}-{i}" for i, case in enumerate(CASES)])
def test_a_planted_fault_is_found(case: Case, world: World) -> None:
    case.spoil(world)
    findings = world.examine()
    # What follows of itself from some faults: handlers that are named no more, bundles that nobody signed.
    aside = {"handler-unused", "manifest-unsigned"} - {case.rule}
    found = [finding for finding in findings if finding.rule not in aside]

    assert [(finding.rule, finding.severity.value) for finding in found] == [(case.rule, case.severity)]
    finding = found[0]
    assert finding.file == world.folder / case.file
    if case.place.startswith("~"):
        line = finding.file.read_text().splitlines()[finding.line - 1]
        assert case.place[1:] in line
    else:
        assert finding.json_path == case.place
    told = f"{finding.problem} {finding.effect} {finding.remedy}"
    assert case.says in told
    assert all((finding.problem, finding.effect, finding.remedy))


def test_every_rule_is_tried() -> None:
    assert {case.rule for case in CASES} | {fault[0] for fault in FAULTS} == set(RULES)


def test_the_manual_has_every_rule() -> None:
    manual = (ROOT / "docs" / "doctor.md").read_text()

    assert [rule for rule in RULES if f"`{rule}`" not in manual] == []


@pytest.mark.parametrize(
    ("address", "listen"),
    [
        ("tcp://127.0.0.1:5555", "127.0.0.1:5555"),
        ("tcp://localhost:5555", "127.0.0.1:5555"),
        ("tcp://plugins:5555", "0.0.0.0:5555"),
        ("dns:///plugins:5555", "0.0.0.0:5555"),
        ("tcp://10.0.0.7:5555", "10.0.0.7:5555"),
        ("unix:///run/plugins.sock", "unix:/run/plugins.sock"),
        ("tcp://[::1]:5555", "[::]:5555"),
    ],
)
def test_addresses_that_meet(address: str, listen: str, world: World) -> None:
    world.options["coprocess_grpc_server"] = address
    world.settings.update(listen=[listen], insecure_public=True)

    assert world.examine() == []


def test_a_bundle_that_a_definition_names_gives_its_hooks(world: World) -> None:
    world.bundle()

    rules = {finding.rule for finding in world.examine()}

    assert rules == {"manifest-unsigned", "handler-unused"}


def test_a_bundle_that_was_not_given_may_name_any_handler(world: World) -> None:
    world.bundle()
    world.bundles.clear()

    assert world.examine() == []


def test_a_handler_that_code_triggers_is_not_unused(world: World) -> None:
    world.extra = "\n@Event\ndef later(event):\n    pass\n"
    assert [finding.rule for finding in world.examine()] == ["handler-unused"]

    world.code["pre"] = 'coprocess.trigger_event("later", "x")'
    assert world.examine() == []


def test_recorded_definitions_raise_no_alarm(tmp_path: Path) -> None:
    """With the handlers that their real gateway had."""
    handlers = tmp_path / "handlers"
    handlers.mkdir()
    lines = ["from coprocess import *"]
    for decorator, names in {
        "Pre": ("MyPreMiddleware", "First", "Second"),
        "PostKeyAuth": ("MyPostKeyAuth",),
        "Post": ("MyPostMiddleware", "Third"),
        "Response": ("MyResponse", "R1", "R2"),
        "Event": ("my_handler",),
    }.items():
        lines += [f"@{decorator}\ndef {name}():\n    pass" for name in names]
    lines.append('@CustomKeyCheck\ndef MyAuthCheck(session):\n    session.allow("t")')
    (handlers / "all.py").write_text("\n".join(lines))
    project = read_project(Settings(handlers=[handlers]), conf=None, apis=[APIS], bundles=[])

    assert len(project.apis) == len(list(APIS.glob("*.json")))
    assert examine(project) == []


def test_the_samples_raise_no_alarm() -> None:
    """Several of them are in no definition: that is noted, and no more."""
    folders = [ROOT / "handlers", ROOT / "event_handlers"]
    examples = ROOT / "examples"
    project = read_project(
        Settings(handlers=folders), conf=examples / "tyk.conf.json", apis=[examples], bundles=[]
    )

    findings = examine(project)

    assert len(project.apis) == 2
    assert {(finding.rule, finding.severity) for finding in findings} == {("handler-unused", Severity.NOTE)}


def test_two_apis_of_one_id_are_told_from_an_oas_definition_and_its_classic_form(tmp_path: Path) -> None:
    shutil.copy(APIS / "oasapi.json", tmp_path)
    shutil.copy(APIS / "oasapi-oas.json", tmp_path / "unrelated-oas.json")
    project = read_project(Settings(handlers=[]), conf=None, apis=[tmp_path], bundles=[])

    assert "api-duplicate-id" in {finding.rule for finding in examine(project)}
