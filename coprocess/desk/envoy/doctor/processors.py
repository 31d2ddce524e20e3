"""Rules on ext_proc filters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from coprocess.desk.envoy.doctor.filters import Use, dig
from coprocess.desk.envoy.doctor.judged import Judged, finding_at, route_is_cleared, seconds
from coprocess.desk.envoy.fields import Fields, list_of, object_of
from coprocess.desk.envoy.simulator.filter_config import ProcessingMode
from coprocess.desk.findings import FileFinding, Severity
from coprocess.errors import ConfigError
from coprocess.gateways.envoy.dynamic_metadata import NAMESPACE, SESSION_NAMESPACE
from coprocess.gateways.envoy.route import CLEAR_ROUTE_CACHE

_DEFAULT_TIMEOUT_S = 0.2
_DEFAULT_BUFFER_BYTES = 1 << 20
#: Envoy 1.40 sends nothing in GRPC, but what came with the headers.
_NOT_SENT = ("NONE", "GRPC")


def check_processor(judged: Judged) -> Iterator[FileFinding]:
    yield from _failure(judged)
    yield from _timeout(judged)
    yield from _phases(judged)
    for direction in ("request", "response"):
        yield from _body(judged, direction)
    yield from _limits(judged)
    yield from _switches(judged)
    yield from _namespaces(judged)


def _failure(judged: Judged) -> Iterator[FileFinding]:
    if not judged.use.failure_mode_allow:
        return
    yield finding_at(
        judged,
        Severity.ERROR if judged.authenticates else Severity.WARNING,
        "envoy-failure-open",
        "failure_mode_allow",
        f"failure_mode_allow is true{' on a filter that authenticates' if judged.authenticates else ''}.",
        "Where the service is down, late or refuses, Envoy lets the request pass as it came.",
        'Leave it out. A handler that may fail open says so itself: on_error="open".',
    )


def _timeout(judged: Judged) -> Iterator[FileFinding]:
    text = judged.use.settings.get("message_timeout")
    given_s = seconds(text)
    allowed_s = _DEFAULT_TIMEOUT_S if given_s is None else given_s
    needed_s = max(judged.timeout_s, 1.0)
    if allowed_s < needed_s:
        said = "not set, which is 0.2 s" if given_s is None else f"{text}"
        yield finding_at(
            judged,
            Severity.ERROR if allowed_s < 1.0 else Severity.WARNING,
            "envoy-timeout",
            "message_timeout",
            f"message_timeout is {said}; handlers may take {judged.timeout_s:g} s.",
            "At the timeout the client gets 504, and what the handler then says is lost.",
            f"Set message_timeout to {judged.timeout_s + 1:g}s, or the service's timeout below it.",
        )


def _phases(judged: Judged) -> Iterator[FileFinding]:
    mode = judged.use.mode
    if judged.before and mode.get("request_header_mode") == "SKIP":
        yield finding_at(
            judged,
            Severity.ERROR,
            "envoy-headers-skipped",
            "processing_mode.request_header_mode",
            "request_header_mode is SKIP, and handlers of the request are to run.",
            "They do not run; of a body reply, Envoy drops all edits of headers.",
            "Set it to SEND.",
        )
    if judged.after and mode.get("response_header_mode") == "SKIP":
        yield finding_at(
            judged,
            Severity.ERROR,
            "envoy-response-skipped",
            "processing_mode.response_header_mode",
            "response_header_mode is SKIP, and Response handlers are to run.",
            "They do not run.",
            "Set it to SEND.",
        )
    if not judged.after and judged.is_known and mode.get("response_header_mode") != "SKIP":
        yield finding_at(
            judged,
            Severity.NOTE,
            "envoy-response-unused",
            "processing_mode.response_header_mode",
            "response_header_mode is SEND, and no Response handler is to run.",
            "Nothing breaks: the service ends the stream before the response.",
            "Set it to SKIP.",
        )


def _body(judged: Judged, direction: str) -> Iterator[FileFinding]:
    mode = body_mode(judged.use, direction)
    key = f"processing_mode.{direction}_body_mode"
    reads, streams = judged.reads(direction), judged.streams(direction)
    if (reads or streams) and mode in _NOT_SENT and not judged.use.settings.get("allow_mode_override"):
        yield finding_at(
            judged,
            Severity.ERROR,
            "envoy-body-not-sent",
            key,
            f"A handler reads the body of the {direction}; {direction}_body_mode is {mode}, and "
            "allow_mode_override is not set.",
            "The service asks for the body, Envoy ignores that, and the request fails.",
            "Set allow_mode_override to true: then bodies are sent for the requests that need them.",
        )
    if (
        (reads or streams)
        and mode in _NOT_SENT
        and judged.use.settings.get("allow_mode_override")
        and judged.use.settings.get("send_body_without_waiting_for_header_response") is True
    ):
        yield finding_at(
            judged,
            Severity.ERROR,
            "envoy-body-not-sent",
            "send_body_without_waiting_for_header_response",
            f"A handler reads the body of the {direction}, and "
            "send_body_without_waiting_for_header_response is true.",
            "Envoy takes no mode_override then: the service refuses each request with a body.",
            "Leave it out.",
        )
    if (
        (reads or streams)
        and mode in _NOT_SENT
        and judged.use.settings.get("allow_mode_override")
        and _is_duplex(judged)
    ):
        yield finding_at(
            judged,
            Severity.ERROR,
            "envoy-body-not-sent",
            key,
            f"A handler reads the body of the {direction}; {direction}_body_mode is {mode}, and the filter "
            "has FULL_DUPLEX_STREAMED.",
            "Envoy takes no mode_override then, on either side: the service refuses what has a body.",
            "Set it to BUFFERED, or to FULL_DUPLEX_STREAMED with trailers, too.",
        )
    wanted = "STREAMED" if streams else "BUFFERED"
    if (reads or streams) and mode in _NOT_SENT and not _override_is_listed(judged, direction, wanted):
        yield finding_at(
            judged,
            Severity.ERROR,
            "envoy-body-not-sent",
            "allowed_override_modes",
            f"allowed_override_modes has no mode that is what the service asks for: {direction}_body_mode "
            f"{wanted}, {direction}_trailer_mode SEND, and the rest as it is.",
            "The service asks for the body, Envoy ignores that, and the request fails.",
            "Leave allowed_override_modes out, or add the mode: all but request_header_mode must be equal.",
        )
    if (reads and mode == "STREAMED") or ((reads or streams) and mode == "BUFFERED_PARTIAL"):
        yield finding_at(
            judged,
            Severity.ERROR,
            "envoy-body-in-pieces",
            key,
            f"A handler reads the body of the {direction}, and {direction}_body_mode is {mode}.",
            "Envoy wants each piece answered, and drops edits of headers then: requests fail.",
            "Set it to NONE and allow_mode_override to true, or to BUFFERED.",
        )
    if direction == "request" and mode == "BUFFERED" and dig(judged.use.filter.manager, "upgrade_configs"):
        yield finding_at(
            judged,
            Severity.ERROR,
            "envoy-body-never-ends",
            key,
            "request_body_mode is BUFFERED, and the listener upgrades connections.",
            "The body of an upgraded connection never ends: such requests hang.",
            "Set it to NONE and allow_mode_override to true: the service leaves those bodies alone.",
        )
    if (
        (reads or streams)
        and mode in ("BUFFERED", "STREAMED")
        and judged.use.mode.get(f"{direction}_trailer_mode") != "SEND"
        and not _takes_override(judged)
    ):
        yield finding_at(
            judged,
            Severity.ERROR if direction == "request" else Severity.WARNING,
            "envoy-body-trailers",
            f"processing_mode.{direction}_trailer_mode",
            f"A handler reads the body of the {direction}; {direction}_body_mode is {mode}, and neither "
            f"{direction}_trailer_mode is SEND, nor does Envoy take a mode_override.",
            "Where a body is empty and trailers follow, Envoy sends nothing: its handlers do not run.",
            "Set it to SEND.",
        )
    if judged.is_known and not (reads or streams) and mode in ("BUFFERED", "BUFFERED_PARTIAL"):
        yield finding_at(
            judged,
            Severity.NOTE,
            "envoy-body-for-nothing",
            key,
            f"{direction}_body_mode is {mode}, and no handler reads that body.",
            "Each request costs one more message, and bodies over the buffer limit get 413 or 500.",
            "Set it to NONE.",
        )
    if mode == "FULL_DUPLEX_STREAMED" and judged.use.mode.get(f"{direction}_trailer_mode") != "SEND":
        yield finding_at(
            judged,
            Severity.ERROR,
            "envoy-duplex-trailers",
            f"processing_mode.{direction}_trailer_mode",
            f"{direction}_body_mode is FULL_DUPLEX_STREAMED, and {direction}_trailer_mode is not SEND.",
            "Envoy refuses the configuration.",
            "Set it to SEND.",
        )


def body_mode(use: Use, direction: str) -> str:
    return str(use.mode.get(f"{direction}_body_mode", "NONE"))


def _takes_override(judged: Judged) -> bool:
    """Whether Envoy does as the service's `mode_override` says."""
    settings = judged.use.settings
    at_once = settings.get("send_body_without_waiting_for_header_response") is True
    return settings.get("allow_mode_override") is True and not at_once and not _is_duplex(judged)


def _is_duplex(judged: Judged) -> bool:
    """Whether either side is, for Envoy by the filter, or for the service by what it is told of the route."""
    modes = _filters_mode(judged), judged.use.mode
    sides = ("request", "response")
    return any(mode.get(f"{side}_body_mode") == "FULL_DUPLEX_STREAMED" for mode in modes for side in sides)


def _filters_mode(judged: Judged) -> Mapping[str, Any]:
    """Without what routes say: overrides are judged by it."""
    return object_of(judged.use.filter.config.get("processing_mode"))


def _override_is_listed(judged: Judged, direction: str, mode: str) -> bool:
    """Whether Envoy takes what the service asks for: all but the request's headers must be equal."""
    listed = judged.use.settings.get("allowed_override_modes")
    if not listed or not judged.use.settings.get("allow_mode_override"):
        return True
    try:
        own = ProcessingMode.read(Fields(dict(_filters_mode(judged)), "processing_mode"))
        told = ProcessingMode.read(Fields(dict(judged.use.mode), "processing_mode"))
        entries = [ProcessingMode.read(Fields(each, "allowed_override_modes")) for each in listed]
    except ConfigError:
        return False
    asked = replace(
        ProcessingMode(request_header_mode="DEFAULT", response_header_mode="DEFAULT"),
        **{f"{direction}_body_mode": mode, f"{direction}_trailer_mode": "SEND"},
    )
    if direction == "request":
        asked = replace(
            asked,
            response_header_mode="SEND" if judged.after else "DEFAULT",
            response_body_mode=told.response_body_mode,
        )
    wanted = own.overridden(asked)
    return any(wanted.matches_allowed(entry) for entry in entries)


def _limits(judged: Judged) -> Iterator[FileFinding]:
    if not (judged.reads("request") or judged.reads("response")) or not judged.use.filter.listener:
        return
    given = judged.use.filter.listener.get("per_connection_buffer_limit_bytes")
    limit = given if isinstance(given, int) else _DEFAULT_BUFFER_BYTES
    said = f"{limit}" if given is not None else "not set, which is 1 MiB"
    if limit < judged.max_body_bytes:
        yield finding_at(
            judged,
            Severity.NOTE,
            "envoy-buffer-limit",
            "",
            f"per_connection_buffer_limit_bytes of the listener is {said}; the service takes bodies of "
            f"{judged.max_body_bytes} bytes.",
            "Larger bodies get 413 from Envoy, responses 500, before a handler sees them.",
            "Set it to what your largest body needs: Envoy may hold as much for each request.",
        )
    if limit > judged.max_body_bytes:
        yield finding_at(
            judged,
            Severity.WARNING,
            "envoy-message-limit",
            "",
            f"per_connection_buffer_limit_bytes of the listener is {said}; the service takes bodies of "
            f"{judged.max_body_bytes} bytes.",
            "Envoy buffers bodies that the service then refuses.",
            f"Set max_message_bytes of the service to more than {limit}, or the limit below it.",
        )


def _switches(judged: Judged) -> Iterator[FileFinding]:
    settings = judged.use.settings
    if settings.get("observability_mode") is True:
        yield finding_at(
            judged,
            Severity.ERROR,
            "envoy-replies-ignored",
            "observability_mode",
            "observability_mode is true.",
            "Envoy waits for no reply and ignores all of them: nobody is refused, nothing is edited.",
            "Leave it out.",
        )
    if settings.get("disable_immediate_response") is True:
        yield finding_at(
            judged,
            Severity.ERROR,
            "envoy-no-answers",
            "disable_immediate_response",
            "disable_immediate_response is true.",
            "Envoy takes what handlers answer or reject for a failure: a 500, and with failure_mode_allow "
            "the request passes.",
            "Leave it out.",
        )
    rules = settings.get("mutation_rules")
    if dig(rules, "disallow_all") is True and not dig(rules, "allow_expression"):
        yield finding_at(
            judged,
            Severity.ERROR,
            "envoy-edits-refused",
            "mutation_rules.disallow_all",
            "mutation_rules.disallow_all is true, without allow_expression.",
            "Envoy drops every edit of headers, without a word.",
            "Leave it out, or name in allow_expression the headers that handlers set.",
        )
    elif dig(rules, "allow_all_routing") is not True and judged.before:
        yield finding_at(
            judged,
            Severity.NOTE,
            "envoy-edits-refused",
            "mutation_rules",
            "mutation_rules.allow_all_routing is not set.",
            "Envoy drops a new method, without a word.",
            "Set it to true where handlers change the method.",
        )
    action = settings.get("route_cache_action")
    if action == "CLEAR":
        yield route_is_cleared(
            judged,
            "route_cache_action",
            "route_cache_action is CLEAR.",
            "Leave it out. A route that needs it says x-coprocess-clear-route-cache.",
        )
    forbids = settings.get("disable_clear_route_cache") is True or action == "RETAIN"
    if forbids and dict(judged.use.said).get(CLEAR_ROUTE_CACHE) == "true":
        yield finding_at(
            judged,
            Severity.ERROR,
            "envoy-route-kept",
            "disable_clear_route_cache" if action is None else "route_cache_action",
            f"{CLEAR_ROUTE_CACHE} is true, and the filter keeps the route.",
            "A path that a handler changes is served by the old route.",
            "Leave the one or the other out.",
        )


def _namespaces(judged: Judged) -> Iterator[FileFinding]:
    if not judged.before:
        return
    named = list_of(dig(judged.use.settings, "metadata_options", "receiving_namespaces", "untyped"))
    wanted = [NAMESPACE, *([SESSION_NAMESPACE] if judged.authenticates else [])]
    missing = [name for name in wanted if name not in named]
    if missing:
        yield finding_at(
            judged,
            Severity.NOTE,
            "envoy-namespaces",
            "metadata_options.receiving_namespaces",
            f"metadata_options.receiving_namespaces.untyped does not name {' and '.join(missing)}.",
            "What handlers put into metadata, and who calls, is not there for other filters and logs.",
            f"Add {' and '.join(missing)} where another filter or the access log reads them.",
        )
