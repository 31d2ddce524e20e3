"""Rules on ext_authz filters."""

from __future__ import annotations

from collections.abc import Iterator

from coprocess.desk.envoy.doctor.filters import dig
from coprocess.desk.envoy.doctor.judged import Judged, finding_at, seconds
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
    yield from _body(judged)


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
    if dig(body, "pack_as_bytes") is not True:
        yield finding_at(
            judged,
            Severity.WARNING,
            "envoy-authz-body",
            "with_request_body.pack_as_bytes",
            "An auth handler reads the body, and pack_as_bytes is not set.",
            "Bytes above 127 arrive as `!`.",
            "Set it to true.",
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
