"""Files that say what nobody expects: they are told of, or looked through for what is there."""

from __future__ import annotations

import copy
import importlib
import itertools
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from coprocess import CustomKeyCheck, Post
from coprocess.desk.envoy.doctor import Service, examine
from coprocess.desk.envoy.trial import config_in
from coprocess.desk.envoy.yaml_files import YamlDocument, read_yaml
from coprocess.errors import ConfigError
from coprocess.gateways.envoy.home import HOME
from coprocess.loading.objects import load_objects

EXAMPLES = sorted((Path(__file__).parents[2] / "examples/envoy").glob("*.yaml"))
ODD: tuple[Any, ...] = (None, 3, True, "x", [], [None], {"x": None})


@CustomKeyCheck
def check_key(session: Any) -> None:
    session.allow("k")


@Post
def reads(request: Any) -> None:
    request.headers["X-Length"] = str(len(request.raw_body))


@pytest.fixture(scope="module")
def service() -> Service:
    return Service(load_objects([check_key, reads], HOME), {}, 5.0, 1 << 20, ("127.0.0.1:5555",))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each value's holder, and its key there."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from places(value[key])


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_value_of_another_kind_is_no_reason_to_stop(
    path: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = copy.deepcopy([each.value for each in read_yaml(path)])
    read = [YamlDocument(path, each) for each in documents]
    for module in ("doctor.examine", "trial.config"):
        reading = importlib.import_module(f"coprocess.desk.envoy.{module}")
        monkeypatch.setattr(reading, "read_yaml", lambda path: read)
    for document in documents:
        for holder, key in places(document):
            was = holder[key]
            for holder[key] in ODD:
                examine([path], service)
                with suppress(ConfigError):
                    config_in(path)
            holder[key] = was


def test_json_may_have_tabs(tmp_path: Path) -> None:
    """Envoy reads it, and the doctor said that it does not start."""
    path = tmp_path / "envoy.json"
    path.write_text('{\n\t"a": {\n\t\t"bC": "d"\n\t}\n}')
    (document,) = read_yaml(path)
    assert document.value == {"a": {"b_c": "d"}}
    assert document.place(("a", "b_c")) == (3, 3)


def test_aliases_that_make_many_of_a_few_bytes_are_refused(tmp_path: Path) -> None:
    names = "abcdefgh"
    lines = ["a: &a [" + ",".join("x" * 9) + "]"]
    for one, other in itertools.pairwise(names):
        lines.append(f"{other}: &{other} [" + ",".join([f"*{one}"] * 9) + "]")
    path = tmp_path / "envoy.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="more than 1000000 values"):
        read_yaml(path)


@pytest.mark.parametrize(
    ("text", "why"),
    [("a: &a\n  b: *a\n", "an alias within itself"), ("a: \0\n", "unacceptable character")],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "envoy.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=why):
        read_yaml(path)


def test_anchors_are_read_and_merged_as_envoy_does_it(tmp_path: Path) -> None:
    """It merges nothing."""
    path = tmp_path / "envoy.yaml"
    path.write_text("a: &a {b: 1}\nc: *a\nd: {<<: *a, e: 2}\n")
    (document,) = read_yaml(path)
    assert document.value == {"a": {"b": 1}, "c": {"b": 1}, "d": {"<<": {"b": 1}, "e": 2}}
