"""`coprocess envoy doctor`: each rule finds what it is for, and what `envoy config` prints is found good."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from coprocess.cli.app import app
from coprocess.desk.envoy.doctor import RULES
from coprocess.desk.envoy.doctor.header_use import HeaderUse, header_use
from coprocess.desk.envoy.yaml_files import walk

ROOT = Path(__file__).parents[2]
HANDLERS = """
from coprocess import CustomKeyCheck, Pre, Response

@Pre
def stamp(request):
    request.headers["X-Stamp"] = "1"

@Pre
def sign(request):
    request.headers["X-Length"] = str(len(request.raw_body))

@CustomKeyCheck
def auth(session):
    session.allow("t")

@CustomKeyCheck
def hmac(request, session):
    session.allow(str(len(request.raw_body)))

@CustomKeyCheck
def bearer(request, session):
    session.allow(request.headers.get("Authorization", "none"))

@Response
def tidy(response):
    response.headers["X-Tidy"] = "1"

@Response
def rewrite(response):
    response.body = response.raw_body[::-1]
"""
SETTINGS = """
timeout_s = 5.0
[chains.plain]
pre = ["stamp"]
[chains.whole]
pre = ["sign"]
auth_check = ["auth"]
response = ["rewrite"]
[chains.headers]
auth_check = "auth"
response = "tidy"
[chains.hmac]
auth_check = "hmac"
[chains.bearer]
auth_check = "bearer"
"""
#: What the printed configuration refuses.
EDITING = """
from coprocess import Pre

@Pre
def edit(request):
    request.headers["X-Envoy-Retry-On"] = "5xx"
    request.query["a"] = "b"

@Pre
def put(request):
    request.method = "PUT"
"""
EDITING_SETTINGS = """
[chains.edits]
pre = "edit"
[chains.puts]
pre = "put"
"""
Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers/shop.py").write_text(HANDLERS)
    (tmp_path / "coprocess.toml").write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["envoy", *arguments])


def load_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_LOADER)  # noqa: S506 - a safe one


def dump_yaml(config: Any) -> str:
    text: str = yaml.dump(config, Dumper=_DUMPER)
    return text


# Ten times as fast, where libyaml is.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def printed(*arguments: str) -> str:
    key = (arguments, Path("coprocess.toml").read_text())
    if key not in _PRINTED:
        result = run("config", *arguments)
        assert result.exit_code == 0, result.output
        _PRINTED[key] = result.stdout
    return _PRINTED[key]


#: By the arguments and the settings: most tests begin with the same.
_PRINTED: dict[tuple[tuple[str, ...], str], str] = {}


def found(path: Path) -> dict[str, str]:
    """The rules, and the worst of what each said."""
    result = run("doctor", str(path), "--json")
    findings = json.loads(result.stdout)["findings"]
    worst_last = sorted(findings, key=lambda each: ("note", "warning", "error").index(each["severity"]))
    return {each["rule"]: each["severity"] for each in worst_last}


@pytest.mark.parametrize(
    ("form", "chain", "options"),
    [
        ("parts", "plain", ()),
        ("static", "", ()),
        ("static", "whole", ()),
        ("istio", "headers", ()),
        ("gateway", "", ()),
        ("parts", "headers", ("--authz",)),
        ("static", "hmac", ("--authz",)),
        ("istio", "whole", ("--authz",)),
        ("gateway", "", ("--authz",)),
    ],
)
def test_what_is_printed_is_good(project: Path, form: str, chain: str, options: tuple[str, ...]) -> None:
    text = printed("--form", form, "--chain", chain, *options)
    (project / "envoy.yaml").write_text(text)

    findings = json.loads(run("doctor", "--json").stdout)["findings"]

    assert [each for each in findings if each["severity"] != "note"] == []


def manager(config: dict[str, Any]) -> dict[str, Any]:
    filters = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
    typed: dict[str, Any] = filters[0]["typed_config"]
    return typed


def processor(config: dict[str, Any]) -> dict[str, Any]:
    typed: dict[str, Any] = manager(config)["http_filters"][0]["typed_config"]
    return typed


def set_(**values: Any) -> Change:
    return lambda config: processor(config).update(values)


def set_mode(**values: Any) -> Change:
    return lambda config: processor(config)["processing_mode"].update(values)


def drop(name: str) -> Change:
    return lambda config: processor(config).pop(name)


def say(key: str, value: str) -> Change:
    return lambda config: processor(config)["grpc_service"].update(
        initial_metadata=[{"key": key, "value": value}]
    )


def buffers_responses(config: dict[str, Any]) -> None:
    set_(allow_mode_override=False)(config)
    set_mode(response_body_mode="BUFFERED", response_trailer_mode="SKIP")(config)


def upgrade(config: dict[str, Any]) -> None:
    manager(config)["upgrade_configs"] = [{"upgrade_type": "websocket"}]
    set_mode(request_body_mode="BUFFERED")(config)


def no_filter(config: dict[str, Any]) -> None:
    manager(config)["http_filters"] = []


def http1_cluster(config: dict[str, Any]) -> None:
    del config["static_resources"]["clusters"][0]["typed_extension_protocol_options"]


def other_cluster(config: dict[str, Any]) -> None:
    config["static_resources"]["clusters"][0]["name"] = "other"


def as_header(config: dict[str, Any]) -> None:
    manager(config)["route_config"]["request_headers_to_add"] = [
        {"header": {"key": "X-Coprocess-Chain", "value": "whole"}}
    ]


def buffer_limit(size: int) -> Change:
    def change(config: dict[str, Any]) -> None:
        config["static_resources"]["listeners"][0]["per_connection_buffer_limit_bytes"] = size

    return change


def both(*changes: Change) -> Change:
    def change(config: dict[str, Any]) -> None:
        for each in changes:
            each(config)

    return change


def on_route(**overrides: Any) -> Change:
    def change(config: dict[str, Any]) -> None:
        manager(config)["route_config"]["virtual_hosts"][0]["routes"][0]["typed_per_filter_config"] = {
            "envoy.filters.http.ext_proc": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute",
                "overrides": overrides,
            }
        }

    return change


def on_route_of_authz(**settings: Any) -> Change:
    def change(config: dict[str, Any]) -> None:
        host = manager(config)["route_config"]["virtual_hosts"][0]
        extensions = {"context_extensions": {"x-coprocess-chain": "hmac"}}
        host["routes"][0]["typed_per_filter_config"] = {
            "envoy.filters.http.ext_authz": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
                "check_settings": {**extensions, **settings},
            }
        }

    return change


def on_route_disabled(name: str) -> Change:
    kind = {"ext_proc": "ext_proc.v3.ExtProcPerRoute", "ext_authz": "ext_authz.v3.ExtAuthzPerRoute"}[name]

    def change(config: dict[str, Any]) -> None:
        manager(config)["route_config"]["virtual_hosts"][0]["routes"].insert(
            0,
            {
                "match": {"prefix": "/health"},
                "direct_response": {"status": 200},
                "typed_per_filter_config": {
                    f"envoy.filters.http.{name}": {
                        "@type": f"type.googleapis.com/envoy.extensions.filters.http.{kind}",
                        "disabled": True,
                    }
                },
            },
        )

    return change


def switched_off_by_text(config: dict[str, Any]) -> None:
    manager(config)["http_filters"][0]["disabled"] = "true"


def upgrade_past(config: dict[str, Any]) -> None:
    *_, router = manager(config)["http_filters"]
    manager(config)["upgrade_configs"] = [{"upgrade_type": "websocket", "filters": [router]}]


def matched(config: dict[str, Any]) -> None:
    filter_ = manager(config)["http_filters"][0]
    filter_["typed_config"] = {
        "@type": "type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher",
        "extension_config": {"name": "own", "typed_config": filter_["typed_config"]},
    }


def rename(config: dict[str, Any]) -> None:
    manager(config)["http_filters"][0]["name"] = "my.processor"


def switched_off(config: dict[str, Any]) -> None:
    manager(config)["http_filters"][0]["disabled"] = True


def endpoint(**address: Any) -> Change:
    def change(config: dict[str, Any]) -> None:
        assignment = config["static_resources"]["clusters"][0]["load_assignment"]
        place = assignment["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
        if "path" in address:
            del place["socket_address"]
            place["pipe"] = address
        else:
            place["socket_address"].update(address)

    return change


def tls_cluster(config: dict[str, Any]) -> None:
    config["static_resources"]["clusters"][0]["transport_socket"] = {"name": "envoy.transport_sockets.tls"}


def http_service(config: dict[str, Any]) -> None:
    filter_ = processor(config)
    del filter_["grpc_service"]
    filter_["http_service"] = {"server_uri": {"uri": "http://x", "cluster": "coprocess", "timeout": "1s"}}


def own_service(cluster: str, **more: Any) -> dict[str, Any]:
    return {"grpc_service": {"envoy_grpc": {"cluster_name": cluster}, **more}}


def unused_key_of_authz(config: dict[str, Any]) -> None:
    said = [{"key": "x-coprocess-chain", "value": "whole"}]
    manager(config)["http_filters"].insert(
        0,
        {
            "name": "envoy.filters.http.ext_authz",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
                **own_service("coprocess", initial_metadata=said),
            },
        },
    )


ALLOWED = {"patterns": [{"exact": "x-key"}]}
CASES: list[tuple[str, str, str, Change]] = [
    ("whole", "envoy-failure-open", "error", set_(failure_mode_allow=True)),
    ("plain", "envoy-failure-open", "warning", set_(failure_mode_allow=True)),
    # Envoy takes all of these, too.
    ("whole", "envoy-failure-open", "error", set_(failure_mode_allow="true")),
    ("whole", "envoy-failure-open", "error", set_(failure_mode_allow="T")),
    ("headers", "envoy-failure-open", "error", on_route(failure_mode_allow={"value": True})),
    ("plain", "envoy-headers-skipped", "error", set_mode(request_header_mode="skip")),
    ("plain", "envoy-headers-skipped", "error", set_mode(request_header_mode=2)),
    ("whole", "envoy-response-skipped", "error", set_mode(response_header_mode="2")),
    ("whole", "envoy-body-not-sent", "error", set_(allow_mode_override="false")),
    ("whole", "envoy-body-in-pieces", "error", set_mode(response_body_mode=1)),
    ("plain", "envoy-timeout", "error", set_(message_timeout={"nanos": 200_000_000})),
    ("plain", "envoy-replies-ignored", "error", set_(observability_mode="yes")),
    ("headers", "envoy-route-disabled", "warning", switched_off_by_text),
    ("plain", "envoy-timeout", "error", drop("message_timeout")),
    ("plain", "envoy-timeout", "warning", set_(message_timeout="2s")),
    ("plain", "envoy-headers-skipped", "error", set_mode(request_header_mode="SKIP")),
    ("whole", "envoy-response-skipped", "error", set_mode(response_header_mode="SKIP")),
    ("plain", "envoy-response-unused", "note", set_mode(response_header_mode="SEND")),
    ("whole", "envoy-body-not-sent", "error", set_(allow_mode_override=False)),
    (
        "whole",
        "envoy-body-not-sent",
        "error",
        set_(allowed_override_modes=[{"request_body_mode": "STREAMED"}]),
    ),
    ("whole", "envoy-body-in-pieces", "error", set_mode(response_body_mode="STREAMED")),
    ("whole", "envoy-body-never-ends", "error", upgrade),
    ("plain", "envoy-body-for-nothing", "note", set_mode(request_body_mode="BUFFERED")),
    ("plain", "envoy-duplex-trailers", "error", set_mode(request_body_mode="FULL_DUPLEX_STREAMED")),
    (
        "whole",
        "envoy-body-trailers",
        "warning",
        buffers_responses,
    ),
    ("whole", "envoy-buffer-limit", "note", buffer_limit(65536)),
    ("whole", "envoy-message-limit", "warning", buffer_limit(1 << 30)),
    ("plain", "envoy-replies-ignored", "error", set_(observability_mode=True)),
    ("plain", "envoy-no-answers", "error", set_(disable_immediate_response=True)),
    ("plain", "envoy-edits-refused", "error", set_(mutation_rules={"disallow_all": True})),
    ("plain", "envoy-edits-refused", "note", drop("mutation_rules")),
    ("whole", "envoy-namespaces", "note", drop("metadata_options")),
    (
        "plain",
        "envoy-route-kept",
        "error",
        both(set_(route_cache_action="RETAIN"), say("x-coprocess-clear-route-cache", "true")),
    ),
    ("plain", "envoy-key-unknown", "error", say("x-coprocess-chane", "plain")),
    ("plain", "envoy-key-unknown", "error", say("x-coprocess-config", "[1]")),
    ("plain", "envoy-key-unknown", "error", say("x_coprocess_chain", "plain")),
    ("plain", "envoy-key-formatted", "error", say("x-coprocess-chain", "%REQ(x-chain)%")),
    ("plain", "envoy-key-formatted", "error", say("x-coprocess-config", "%7B%7D")),
    ("plain", "envoy-key-formatted", "error", say("authorization", "100%")),
    ("plain", "envoy-key-formatted", "warning", say("x-coprocess-api-id", "%ROUTE_NAME%")),
    (
        "plain",
        "envoy-key-formatted",
        "error",
        on_route(grpc_initial_metadata=[{"key": "x-coprocess-pre", "value": "%REQ(A)%"}]),
    ),
    ("plain", "envoy-key-as-header", "error", as_header),
    ("plain", "envoy-name-unknown", "error", say("x-coprocess-chain", "gone")),
    ("plain", "envoy-name-unknown", "error", say("x-coprocess-pre", "stamp,gone")),
    ("plain", "envoy-no-filter", "error", no_filter),
    ("plain", "envoy-cluster", "error", http1_cluster),
    ("plain", "envoy-cluster", "error", other_cluster),
    ("plain", "envoy-cluster", "error", on_route(**own_service("gone"))),
    # It speaks HTTP/1.1, as upstreams do.
    ("plain", "envoy-cluster", "error", on_route(**own_service("upstream"))),
    ("plain", "envoy-http-service", "error", on_route(http_service={"server_uri": {"uri": "http://x"}})),
    (
        "plain",
        "envoy-name-unknown",
        "error",
        on_route(
            **own_service("coprocess", initial_metadata=[{"key": "x-coprocess-chain", "value": "gone"}])
        ),
    ),
    # The chain is said to the filter's service, and the route has another: all handlers run.
    ("plain", "envoy-response-skipped", "error", on_route(**own_service("coprocess"))),
    ("plain", "envoy-key-unknown", "error", unused_key_of_authz),
    (
        "plain",
        "envoy-name-unknown",
        "error",
        on_route(grpc_initial_metadata=[{"key": "x-coprocess-chain", "value": "gone"}]),
    ),
    (
        "plain",
        "envoy-response-skipped",
        "error",
        on_route(grpc_initial_metadata=[{"key": "x-coprocess-chain", "value": "headers"}]),
    ),
    ("whole", "envoy-response-skipped", "error", on_route(processing_mode={"response_header_mode": "SKIP"})),
    ("headers", "envoy-failure-open", "error", on_route(failure_mode_allow=True)),
    (
        "plain",
        "envoy-edits-refused",
        "error",
        set_(mutation_rules={"disallow_expression": {"regex": "x-s.*"}}),
    ),
    (
        "plain",
        "envoy-edits-refused",
        "error",
        set_(mutation_rules={"disallow_all": True, "allow_expression": {"regex": "x-other"}}),
    ),
    (
        "plain",
        "envoy-edits-refused",
        "note",
        set_(mutation_rules={"disallow_all": True, "allow_expression": {"regex": "x-stamp"}}),
    ),
    ("plain", "envoy-edits-refused", "note", set_(mutation_rules={"disallow_is_error": True})),
    ("edits", "envoy-edits-refused", "error", set_(mutation_rules={"allow_envoy": False})),
    (
        "edits",
        "envoy-edits-refused",
        "error",
        set_(mutation_rules={"allow_envoy": True, "disallow_system": True}),
    ),
    ("puts", "envoy-edits-refused", "error", drop("mutation_rules")),
    ("bearer", "envoy-headers-hidden", "error", set_(forward_rules={"allowed_headers": ALLOWED})),
    (
        "plain",
        "envoy-headers-hidden",
        "error",
        set_(forward_rules={"disallowed_headers": {"patterns": [{"exact": ":path"}]}}),
    ),
    (
        "headers",
        "envoy-headers-hidden",
        "error",
        set_(forward_rules={"disallowed_headers": {"patterns": [{"exact": ":status"}]}}),
    ),
    ("whole", "envoy-body-not-sent", "error", set_(send_body_without_waiting_for_header_response=True)),
    (
        "whole",
        "envoy-body-not-sent",
        "error",
        set_mode(response_body_mode="FULL_DUPLEX_STREAMED", response_trailer_mode="SEND"),
    ),
    # What routes say changes nothing of it.
    (
        "whole",
        "envoy-body-not-sent",
        "error",
        both(
            set_mode(response_body_mode="FULL_DUPLEX_STREAMED", response_trailer_mode="SEND"),
            on_route(processing_mode={"request_body_mode": "NONE"}),
        ),
    ),
    (
        "whole",
        "envoy-body-trailers",
        "error",
        both(
            set_mode(request_body_mode="BUFFERED", request_trailer_mode="SKIP"),
            set_(send_body_without_waiting_for_header_response=True),
        ),
    ),
    (
        "whole",
        "envoy-body-not-sent",
        "error",
        both(set_mode(request_body_mode="GRPC"), set_(allow_mode_override=False)),
    ),
    ("plain", "envoy-route-cleared", "note", set_(route_cache_action="CLEAR")),
    ("headers", "envoy-route-disabled", "warning", on_route_disabled("ext_proc")),
    ("plain", "envoy-route-disabled", "note", on_route_disabled("ext_proc")),
    ("headers", "envoy-route-disabled", "warning", switched_off),
    ("headers", "envoy-route-disabled", "warning", matched),
    ("headers", "envoy-upgrade-unasked", "error", upgrade_past),
    # Of its type's name, Envoy knows nothing.
    ("plain", "envoy-route-unused", "error", both(rename, on_route(failure_mode_allow=False))),
    ("plain", "envoy-http-service", "error", http_service),
    ("plain", "envoy-cluster-address", "warning", endpoint(port_value=5556)),
    ("plain", "envoy-cluster-address", "warning", endpoint(address="coprocess.internal")),
    ("plain", "envoy-cluster-address", "warning", endpoint(path="/run/coprocess.sock")),
    ("plain", "envoy-cluster-address", "warning", tls_cluster),
    (
        "whole",
        "envoy-body-not-sent",
        "error",
        # Without trailers it is not what the service asks for.
        set_(
            allowed_override_modes=[
                {"request_body_mode": "BUFFERED", "response_header_mode": "SEND"},
                {"response_body_mode": "BUFFERED", "response_header_mode": "SEND"},
            ]
        ),
    ),
]
AUTHZ_CASES: list[tuple[str, str, str, Change]] = [
    ("headers", "envoy-failure-open", "error", set_(failure_mode_allow=True)),
    ("headers", "envoy-timeout", "error", lambda config: processor(config)["grpc_service"].pop("timeout")),
    ("headers", "envoy-authz-raw-headers", "warning", drop("encode_raw_headers")),
    ("hmac", "envoy-authz-body", "error", drop("with_request_body")),
    ("hmac", "envoy-authz-body", "error", set_(with_request_body={"max_request_bytes": 10})),
    ("headers", "envoy-authz-version", "error", drop("transport_api_version")),
    ("hmac", "envoy-authz-body", "error", set_(with_request_body={"pack_as_bytes": True})),
    (
        "hmac",
        "envoy-message-limit",
        "warning",
        set_(with_request_body={"pack_as_bytes": True, "max_request_bytes": 1 << 30}),
    ),
    ("bearer", "envoy-headers-hidden", "error", set_(allowed_headers=ALLOWED)),
    ("bearer", "envoy-headers-hidden", "error", set_(disallowed_headers={"patterns": [{"prefix": "auth"}]})),
    ("headers", "envoy-route-cleared", "note", set_(clear_route_cache=True)),
    ("headers", "envoy-route-disabled", "warning", on_route_disabled("ext_authz")),
    ("headers", "envoy-authz-partly", "error", set_(filter_enabled={"default_value": {"numerator": 50}})),
    ("headers", "envoy-authz-partly", "error", set_(filter_enabled={"default_value": {}})),
    ("headers", "envoy-authz-partly", "error", set_(filter_enabled={"default_value": {"numerator": "50"}})),
    ("headers", "envoy-failure-open", "error", set_(failure_mode_allow="1")),
    ("hmac", "envoy-authz-body", "error", on_route_of_authz(disable_request_body_buffering=True)),
    ("headers", "envoy-authz-partly", "warning", set_(filter_enabled_metadata={"filter": "x"})),
    ("headers", "envoy-http-service", "error", http_service),
]


@pytest.mark.parametrize(("chain", "rule", "severity", "change"), [(*case[:3], case[3]) for case in CASES])
def test_each_rule_of_ext_proc(project: Path, chain: str, rule: str, severity: str, change: Change) -> None:
    if chain in EDITING_SETTINGS:
        (project / "handlers/editing.py").write_text(EDITING)
        (project / "coprocess.toml").write_text(SETTINGS + EDITING_SETTINGS)
    config = load_yaml(printed("--form", "static", "--chain", chain))
    before = copy.deepcopy(config)
    change(config)
    assert config != before
    (project / "envoy.yaml").write_text(dump_yaml(config))

    assert found(project / "envoy.yaml").get(rule) == severity


@pytest.mark.parametrize(("chain", "rule", "severity", "change"), AUTHZ_CASES)
def test_each_rule_of_ext_authz(project: Path, chain: str, rule: str, severity: str, change: Change) -> None:
    config = load_yaml(printed("--form", "static", "--authz", "--chain", chain))
    change(config)
    (project / "envoy.yaml").write_text(dump_yaml(config))

    assert found(project / "envoy.yaml").get(rule) == severity


def test_handlers_for_apis_want_to_be_told_which_api_it_is(project: Path) -> None:
    (project / "handlers/shop.py").write_text(
        "from coprocess import CustomKeyCheck, Post\n"
        "@CustomKeyCheck(api_id='orders')\n"
        "def check(session):\n"
        "    session.allow('somebody')\n"
        "@Post\n"
        "def stamp(request):\n"
        "    request.headers['X-Stamp'] = '1'\n"
    )
    (project / "coprocess.toml").write_text("timeout_s = 5.0\n")
    for form in ("static", "gateway"):
        (project / "envoy.yaml").write_text(printed("--form", form))
        assert "envoy-api-unknown" not in found(project / "envoy.yaml")
    config = load_yaml(printed("--form", "static"))
    drop("request_attributes")(config)
    (project / "envoy.yaml").write_text(dump_yaml(config))
    assert found(project / "envoy.yaml")["envoy-api-unknown"] == "error"
    say("x-coprocess-api-id", "orders")(config)
    (project / "envoy.yaml").write_text(dump_yaml(config))
    assert "envoy-api-unknown" not in found(project / "envoy.yaml")


def test_a_security_policy_sends_bodies_as_text_and_that_is_told(project: Path) -> None:
    """The doctor took it that Envoy Gateway sets `pack_as_bytes`, which it does not."""
    (project / "handlers/shop.py").write_text(
        "from coprocess import CustomKeyCheck\n"
        "@CustomKeyCheck\n"
        "def check(request, session):\n"
        "    session.allow(request.text)\n"
    )
    (project / "coprocess.toml").write_text("timeout_s = 5.0\n")
    (project / "envoy.yaml").write_text(printed("--form", "gateway", "--authz"))

    assert found(project / "envoy.yaml") == {"envoy-authz-body": "note"}


def test_a_percent_sign_that_is_written_twice_is_one(project: Path) -> None:
    config = load_yaml(printed("--form", "static", "--chain", ""))
    say("x-coprocess-config", '{"at": "50%%", "more": "%%7B"}')(config)
    (project / "envoy.yaml").write_text(dump_yaml(config))

    assert not {"envoy-key-formatted", "envoy-key-unknown"} & set(found(project / "envoy.yaml"))
    assert run("try", "GET", "/", "--envoy", "envoy.yaml").exit_code == 0
    say("x-coprocess-config", "%7B%7D")(config)
    (project / "envoy.yaml").write_text(dump_yaml(config))
    assert "a % that is not written %%" in str(run("try", "GET", "/", "--envoy", "envoy.yaml").exception)


def test_what_a_policy_of_envoy_gateway_hides_and_clears_is_found(project: Path) -> None:
    (project / "handlers/shop.py").write_text(
        "from coprocess import CustomKeyCheck\n"
        "@CustomKeyCheck\n"
        "def bearer(request, session):\n"
        '    session.allow(request.headers["Authorization"])\n'
    )
    (project / "coprocess.toml").write_text("timeout_s = 5.0\n")
    policy = load_yaml(printed("--form", "gateway", "--authz"))
    policy["spec"]["extAuth"].update(headersToExtAuth=["Authorization"])
    (project / "envoy.yaml").write_text(dump_yaml(policy))
    assert found(project / "envoy.yaml") == {}
    policy["spec"]["extAuth"].update(headersToExtAuth=["X-Key"], recomputeRoute=True)
    (project / "envoy.yaml").write_text(dump_yaml(policy))
    assert found(project / "envoy.yaml") == {"envoy-headers-hidden": "error", "envoy-route-cleared": "note"}


def test_modes_as_the_service_asks_for_them_are_good(project: Path) -> None:
    modes = [
        {
            "request_body_mode": "BUFFERED",
            "request_trailer_mode": "SEND",
            "response_header_mode": "SEND",
        },
        {
            "response_body_mode": "BUFFERED",
            "response_trailer_mode": "SEND",
            "response_header_mode": "SEND",
        },
    ]
    config = load_yaml(printed("--form", "static", "--chain", "whole"))
    set_(allowed_override_modes=modes)(config)
    (project / "envoy.yaml").write_text(dump_yaml(config))

    assert "envoy-body-not-sent" not in found(project / "envoy.yaml")
    result = run("try", "POST", "/", "-d", "hello", "--envoy", "envoy.yaml")
    assert result.exit_code == 0, result.output


def test_upgrades_with_the_same_filters_pass_by_none(project: Path) -> None:
    config = load_yaml(printed("--form", "static", "--chain", "headers"))
    own = {"upgrade_type": "foo", "filters": manager(config)["http_filters"]}
    manager(config)["upgrade_configs"] = [{"upgrade_type": "websocket"}, own]
    (project / "envoy.yaml").write_text(dump_yaml(config))

    assert "envoy-upgrade-unasked" not in found(project / "envoy.yaml")


@pytest.mark.parametrize("kind", ["xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct"])
def test_a_filter_within_a_typed_struct_is_found(project: Path, kind: str) -> None:
    """As Istio's examples have it."""
    config = load_yaml(printed("--form", "static", "--chain", "headers"))

    def wrap(typed: dict[str, Any]) -> dict[str, Any]:
        inner = dict(typed)
        return {"@type": f"type.googleapis.com/{kind}", "type_url": inner.pop("@type"), "value": inner}

    set_(failure_mode_allow=True)(config)
    on_route(processing_mode={"response_header_mode": "SKIP"})(config)
    filter_ = manager(config)["http_filters"][0]
    filter_["typed_config"] = wrap(filter_["typed_config"])
    of_route = manager(config)["route_config"]["virtual_hosts"][0]["routes"][0]["typed_per_filter_config"]
    of_route["envoy.filters.http.ext_proc"] = wrap(of_route["envoy.filters.http.ext_proc"])
    (project / "envoy.yaml").write_text(dump_yaml(config))

    rules = found(project / "envoy.yaml")

    assert rules["envoy-failure-open"] == rules["envoy-response-skipped"] == "error"
    filter_["disabled"] = True
    (project / "envoy.yaml").write_text(dump_yaml(config))
    assert found(project / "envoy.yaml")["envoy-route-disabled"] == "warning"


def test_a_filter_that_a_matcher_chooses_has_the_name_of_its_entry(project: Path) -> None:
    config = load_yaml(printed("--form", "static", "--chain", "headers"))
    matched(config)
    on_route(failure_mode_allow=True)(config)
    (project / "envoy.yaml").write_text(dump_yaml(config))

    rules = found(project / "envoy.yaml")

    assert rules["envoy-failure-open"] == "error"
    assert "envoy-route-unused" not in rules


def test_rules_that_are_none_are_told(project: Path) -> None:
    config = load_yaml(printed("--form", "static", "--chain", "plain"))
    set_(mutation_rules={"allow_expression": {"regex": "("}})(config)
    (project / "envoy.yaml").write_text(dump_yaml(config))

    result = run("doctor")

    assert "mutation_rules.allow_expression: '(' is no pattern" in result.stdout.replace("\n", " ")


def test_a_service_with_tls_is_not_called_without(project: Path) -> None:
    for name in ("cert", "key"):
        (project / f"{name}.pem").write_text("")
    settings = f"tls_cert = 'cert.pem'\ntls_key = 'key.pem'\n{SETTINGS}"
    (project / "coprocess.toml").write_text(settings)
    (project / "envoy.yaml").write_text(printed("--form", "static", "--chain", "plain"))

    assert found(project / "envoy.yaml")["envoy-cluster"] == "error"


def test_what_reads_and_edits_headers_is_seen() -> None:
    def handler(request: Any, response: Any) -> None:
        request.headers["X-Set"] = request.headers.get("X-Get", "")
        request.headers.update({"X-Update": "1"})
        request.headers.add("X-Add", "1")
        del request.headers["X-Del"]
        if "X-In" in request.headers:
            request.path = request.headers["X-Item"]
        response.status = 200
        request.headers.pop("X-Pop", None)

    use = header_use(handler)

    assert use.reads == {"x-get", "x-in", "x-item"}
    assert use.edits == {"x-set", "x-update", "x-add", "x-del", "x-pop", ":path", ":status"}
    assert header_use(print) == HeaderUse()


def test_ext_authz_runs_auth_handlers_only(project: Path) -> None:
    config = load_yaml(printed("--form", "static", "--authz", "--chain", "headers"))
    route = manager(config)["route_config"]["virtual_hosts"][0]["routes"][0]
    settings = route["typed_per_filter_config"]["envoy.filters.http.ext_authz"]["check_settings"]
    settings["context_extensions"] = {"x-coprocess-auth-check": "auth", "x-coprocess-pre": "stamp"}
    (project / "envoy.yaml").write_text(dump_yaml(config))

    assert found(project / "envoy.yaml")["envoy-authz-others"] == "error"


def test_broken_files(project: Path) -> None:
    (project / "envoy.yaml").write_text("a: [1\nb: }")
    (project / "handlers/broken.py").write_text("def (")

    result = run("doctor")

    assert result.exit_code == 1
    assert "envoy.yaml:2:" in result.stdout
    assert "[envoy-yaml-broken]" in result.stdout
    assert "[envoy-handler-broken]" in result.stdout


def test_a_file_that_cannot_be_read_is_not_said_to_have_no_filter(project: Path) -> None:
    (project / "envoy.yaml").write_text("a: [1\nb: }")

    assert "envoy-no-filter" not in run("doctor").stdout


def test_place_of_a_finding(project: Path) -> None:
    text = printed("--form", "static", "--chain", "plain").replace(
        "message_timeout: 6s", "message_timeout: 100ms"
    )
    (project / "envoy.yaml").write_text(text)
    line = next(number for number, each in enumerate(text.splitlines(), 1) if "100ms" in each)

    result = run("doctor", "--sarif", "out.sarif")

    assert f"envoy.yaml:{line}:" in result.stdout
    [found] = [
        each
        for each in json.loads((project / "out.sarif").read_text())["runs"][0]["results"]
        if each["ruleId"] == "envoy-timeout"
    ]
    assert found["locations"][0]["physicalLocation"]["region"]["startLine"] == line


def test_names_in_camel_case_are_read(project: Path) -> None:
    text = printed("--form", "static", "--chain", "plain")
    (project / "envoy.yaml").write_text(text.replace("message_timeout: 6s", "messageTimeout: 0.1s"))

    assert found(project / "envoy.yaml")["envoy-timeout"] == "error"


def test_gateway_policy(project: Path) -> None:
    text = printed("--form", "gateway").replace("failOpen: false", "failOpen: true")
    (project / "envoy.yaml").write_text(text.replace("allowModeOverride: true", "allowModeOverride: false"))

    rules = found(project / "envoy.yaml")

    assert rules["envoy-failure-open"] == rules["envoy-body-not-sent"] == "error"


@pytest.mark.parametrize("name", ["odd: 'one' # \" {x}", "true", "No", "12", "1e3", "- a", "&a", "ü", "100%"])
@pytest.mark.parametrize("form", ["parts", "static", "istio"])
@pytest.mark.parametrize("authz", [False, True])
def test_a_chain_of_any_name_is_printed_as_a_text(
    project: Path, form: str, name: str, *, authz: bool
) -> None:
    """Some were no YAML, and others a number, which Envoy does not take."""
    with (project / "coprocess.toml").open("a") as settings:
        settings.write(f'[chains.{json.dumps(name, ensure_ascii=False)}]\nauth_check = "auth"\n')
    text = printed("--form", form, "--chain", name, *(["--authz"] if authz else []))
    said: list[Any] = [
        found.get("value", found.get("x-coprocess-chain"))
        for document in yaml.safe_load_all(text)
        for _, found in walk(document)
        if found.get("key") == "x-coprocess-chain" or "x-coprocess-chain" in found
    ]
    # Envoy formats metadata.
    assert said == [name if authz else name.replace("%", "%%")]


def test_policies_name_no_chain(project: Path) -> None:
    result = run("config", "--form", "gateway", "--chain", "plain")

    assert result.exit_code == 1
    assert "a policy of Envoy Gateway cannot name a chain" in str(result.exception)


def test_config_of_a_chain_that_is_not_there(project: Path) -> None:
    result = run("config", "--chain", "gone")

    assert result.exit_code == 1
    assert 'no chain "gone"; there are: bearer, headers, hmac, plain, whole' in str(result.exception)


def test_every_rule_has_a_case_and_is_in_the_manual() -> None:
    elsewhere = {
        *("envoy-yaml-broken", "envoy-handler-broken", "envoy-authz-others"),
        "envoy-api-unknown",
    }
    tried = {case[1] for case in [*CASES, *AUTHZ_CASES]} | elsewhere
    manual = (ROOT / "docs/envoy-desk.md").read_text()

    assert set(RULES) == tried
    assert [rule for rule in RULES if f"`{rule}`" not in manual] == []
