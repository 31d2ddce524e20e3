"""Rules on ext_authz filters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from coprocess.desk.envoy.doctor.as_envoy import is_true
from coprocess.desk.envoy.doctor.filters import dig
from coprocess.desk.envoy.doctor.judged import Judged, finding_at, route_is_cleared, seconds
from coprocess.desk.findings import FileFinding, Severity

_DEFAULT_TIMEOUT_S = 0.2


def check_authorizer(judged: Judged) -> Iterator[FileFinding]:
    settings = judged.use.settings
    if judged.use.failure_mode_allow:
        yield finding_at(
            judged,
            Severity.ERROR,
            "envoy-failure-open",
            "failure_mode_allow",
            "failure_mode_allow is true on a filter that authenticates.",
            "Where the service is down or late, everybody is let in.",
            "Leave it out.",
        )
    if settings.get("transport_api_version") != "V3":
        yield finding_at(
            judged,
            Severity.ERROR,
            "envoy-authz-version",
            "transport_api_version",
            "transport_api_version is not V3.",
            "Envoy refuses the configuration, or asks a service that is not there.",
            "Set it to V3.",
        )
    timeout_s = seconds(dig(settings, "grpc_service", "timeout"))
    allowed_s = _DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s
    if allowed_s < max(judged.timeout_s, 1.0):
        said = "not set, which is 0.2 s" if timeout_s is None else f"{allowed_s:g} s"
        yield finding_at(
            judged,
            Severity.ERROR if allowed_s < 1.0 else Severity.WARNING,
            "envoy-timeout",
            "grpc_service.timeout",
            f"grpc_service.timeout is {said}; handlers may take {judged.timeout_s:g} s.",
            "At the timeout the client gets 403.",
            f"Set it to {judged.timeout_s + 1:g}s, or the service's timeout below it.",
        )
    if settings.get("encode_raw_headers") is not True:
        yield finding_at(
            judged,
            Severity.WARNING,
            "envoy-authz-raw-headers",
            "encode_raw_headers",
            "encode_raw_headers is not set.",
            "Headers of one name arrive joined, and bytes above 127 as `!`: signatures may not match.",
            "Set it to true.",
        )
    if settings.get("clear_route_cache") is True:
        yield route_is_cleared(
            judged,
            "clear_route_cache",
            "clear_route_cache is true.",
            "Leave it out where handlers edit nothing that routes look at.",
        )
    yield from _parts(judged)
    yield from _body(judged)


def _parts(judged: Judged) -> Iterator[FileFinding]:
    settings = judged.use.settings
    if is_true(dig(settings, "deny_at_disable", "default_value")):
        return
    share = dig(settings, "filter_enabled", "default_value")
    if isinstance(share, dict) and _is_part(share):
        yield finding_at(
            judged,
            Severity.ERROR,
            "envoy-authz-partly",
            "filter_enabled",
            "filter_enabled asks for a part of the requests only, and deny_at_disable is not set.",
            "The others pass without being authenticated.",
            "Leave it out.",
        )
    if settings.get("filter_enabled_metadata") is not None:
        yield finding_at(
            judged,
            Severity.WARNING,
            "envoy-authz-partly",
            "filter_enabled_metadata",
            "filter_enabled_metadata is set.",
            "Requests without that metadata pass without being authenticated.",
            "Leave it out, or see that nobody else writes the metadata.",
        )


def _is_part(share: Any) -> bool:
    whole = {"HUNDRED": 100, "TEN_THOUSAND": 10_000, "MILLION": 1_000_000}
    numerator = share.get("numerator", 0)
    return not isinstance(numerator, int) or numerator < whole.get(share.get("denominator", "HUNDRED"), 0)


def _body(judged: Judged) -> Iterator[FileFinding]:
    if not judged.check_reads:
        return
    body = judged.use.settings.get("with_request_body")
    if body is None:
        yield finding_at(
            judged,
            Severity.ERROR,
            "envoy-authz-body",
            "with_request_body",
            "An auth handler reads the body, and with_request_body is not set.",
            "The handler fails, and the client is refused.",
            "Set with_request_body, with max_request_bytes and pack_as_bytes: true.",
        )
        return
    if judged.use.settings.get("disable_request_body_buffering") is True:
        yield finding_at(
            judged,
            Severity.ERROR,
            "envoy-authz-body",
            "with_request_body",
            "An auth handler reads the body, and disable_request_body_buffering is true.",
            "No body is sent: the handler fails, and the client is refused.",
            "Leave it out.",
        )
    limit = dig(body, "max_request_bytes")
    if not isinstance(limit, int) or limit <= 0:
        yield finding_at(
            judged,
            Severity.ERROR,
            "envoy-authz-body",
            "with_request_body.max_request_bytes",
            "max_request_bytes is not set.",
            "Envoy refuses the configuration.",
            "Set it to what your largest body needs.",
        )
    elif limit > judged.max_body_bytes:
        yield finding_at(
            judged,
            Severity.WARNING,
            "envoy-message-limit",
            "with_request_body.max_request_bytes",
            f"max_request_bytes is {limit}; the service takes bodies of {judged.max_body_bytes} bytes.",
            "Envoy sends bodies that the service refuses: the client gets 403.",
            f"Set max_message_bytes of the service to more than {limit}, or the limit below it.",
        )
    if dig(body, "pack_as_bytes") is not True:
        is_policy = judged.use.filter.where[:1] == ("spec",)
        yield finding_at(
            judged,
            Severity.NOTE if is_policy else Severity.ERROR,
            "envoy-authz-body",
            "with_request_body.pack_as_bytes",
            "An auth handler reads the body, and pack_as_bytes is not set.",
            "Bytes that are not UTF-8 arrive as `!`: the service refuses what has a `!`.",
            "The policy cannot: have ext_proc for such handlers, by an EnvoyExtensionPolicy."
            if is_policy
            else "Set it to true.",
        )
    if dig(body, "allow_partial_message") is True:
        yield finding_at(
            judged,
            Severity.WARNING,
            "envoy-authz-body",
            "with_request_body.allow_partial_message",
            "An auth handler reads the body, and allow_partial_message is true.",
            "Of a larger body only a part arrives: the handler fails, and the client is refused.",
            "Leave it out: then such a request gets 413.",
        )
