"""What the gateway reads of an API's definition, and refuses in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coprocess.desk.tyk.simulator import ApiDefinition
from coprocess.desk.tyk.simulator.gojson import go_json
from coprocess.errors import ConfigError
from tests.simulator import definition, hook


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ([], "the document"),
        ({}, "api_id"),
        ({"api_id": 3}, "api_id"),
        ({"api_id": "a"}, "proxy.listen_path"),
        ({"api_id": "a", "proxy": []}, "proxy"),
        ({"api_id": "a", "proxy": {"listen_path": "/a/", "target_url": "/b"}}, "proxy.target_url"),
        ({"api_id": "a", "proxy": {"listen_path": "/a/", "target_url": "ftp://b/"}}, "proxy.target_url"),
        ({"x-tyk-api-gateway": {"info": {"id": 1}}}, "x-tyk-api-gateway.info.id"),
    ],
)
def test_bad_definition_names_the_place(document: Any, place: str) -> None:
    with pytest.raises(ConfigError, match=f"^my.json: {place}: "):
        ApiDefinition.parse(document, source="my.json")


@pytest.mark.parametrize(
    ("hooks", "place"),
    [
        ({"pre": [{"name": "a"}, {"name": 7}]}, r"custom_middleware.pre\[1\].name"),
        ({"pre": {"name": "a"}}, "custom_middleware.pre"),
        ({"pre": [{"name": "a", "raw_body_only": "yes"}]}, r"custom_middleware.pre\[0\].raw_body_only"),
        ({"pre": [{"name": "a"}], "driver": "lua"}, "custom_middleware.driver"),
        (
            {
                "auth_check": {"name": "a"},
                "id_extractor": {"extract_from": "cookie", "extract_with": "value"},
            },
            "custom_middleware.id_extractor.extract_from",
        ),
        (
            {"auth_check": {"name": "a"}, "id_extractor": {"extract_from": "body", "extract_with": "css"}},
            "custom_middleware.id_extractor.extract_with",
        ),
        (
            {
                "auth_check": {"name": "a"},
                "id_extractor": {
                    "extract_from": "body",
                    "extract_with": "regex",
                    "extractor_config": {"regex_match_index": True},
                },
            },
            "extractor_config.regex_match_index",
        ),
    ],
)
def test_bad_hook_names_the_place(hooks: dict[str, Any], place: str) -> None:
    with pytest.raises(ConfigError, match=place):
        definition(hooks=hooks)


def test_definition_file_that_is_not_json(tmp_path: Path) -> None:
    path = tmp_path / "api.json"
    path.write_text("{\n,}")
    with pytest.raises(ConfigError, match=r"api\.json: line 2: not JSON"):
        ApiDefinition.load(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        ApiDefinition.load(tmp_path / "none.json")


def test_disabled_hooks_are_not_called() -> None:
    parsed = definition(hooks={"pre": [hook("A", disabled=True), hook("B")]})
    assert [one.name for one in parsed.pre] == ["B"]


def test_driver_python_is_simulated() -> None:
    assert definition(hooks={"pre": [hook("A")], "driver": "python"}).pre


def test_a_dashboards_export_is_read_as_the_doctor_reads_it() -> None:
    api = {
        "api_id": "a",
        "proxy": {"listen_path": "/a/", "target_url": "http://up.test"},
        "custom_middleware": {"driver": "grpc", "pre": [{"name": "A"}]},
    }
    assert ApiDefinition.parse({"api_definition": api}) == ApiDefinition.parse(api)


def test_a_disabled_bundle_is_none() -> None:
    api = {
        "api_id": "a",
        "proxy": {"listen_path": "/a/", "target_url": "http://up.test"},
        "custom_middleware_bundle": "b.zip",
    }
    assert ApiDefinition.parse(api).bundle == "b.zip"
    assert ApiDefinition.parse({**api, "custom_middleware_bundle_disabled": True}).bundle == ""


def test_oas_with_older_plugin_groups() -> None:
    parsed = ApiDefinition.parse(
        {
            "x-tyk-api-gateway": {
                "info": {"id": "a", "orgId": "o"},
                "upstream": {"url": "http://up.test"},
                "server": {"listenPath": {"value": "/a/"}},
                "middleware": {
                    "global": {
                        "pluginConfig": {"driver": "grpc", "bundle": {"enabled": True, "path": "b.zip"}},
                        "prePlugin": {"plugins": [{"enabled": True, "functionName": "A"}]},
                    }
                },
            }
        }
    )
    assert [one.name for one in parsed.pre] == ["A"]
    assert parsed.keyless
    assert parsed.bundle == "b.zip"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"b": 1, "a": [True, None, "x"]}, '{"a":[true,null,"x"],"b":1}'),
        ({"é": 1, "z": 2}, '{"z":2,"é":1}'),
        ("<a href='x'>&\u2028", "\"\\u003ca href='x'\\u003e\\u0026\\u2028\""),
        (3.0, "3"),
        (0.5, "0.5"),
        (-0.0, "-0"),
        (100, "100"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (1.5e-7, "1.5e-7"),
        (0.000001, "0.000001"),
        (12345678901234567890, "12345678901234567000"),
    ],
)
def test_config_data_is_in_gos_spelling(value: Any, expected: str) -> None:
    assert go_json(value) == expected
