"""What the filters' own configuration says: ext_proc, ext_authz, set_metadata, and what a route changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from coprocess.desk.envoy.fields import Fields, seconds_or
from coprocess.desk.envoy.formats import as_sent, formats_in
from coprocess.desk.envoy.simulator.headers import ForwardRules, StringMatcher
from coprocess.desk.envoy.simulator.mutation_rules import MutationRules
from coprocess.errors import ConfigError

HEADER_MODES = ("DEFAULT", "SEND", "SKIP")
BODY_MODES = ("NONE", "STREAMED", "BUFFERED", "BUFFERED_PARTIAL", "FULL_DUPLEX_STREAMED", "GRPC")
DEFAULT_MESSAGE_TIMEOUT_S = 0.2


@dataclass(frozen=True, slots=True)
class GrpcService:
    cluster: str
    timeout_s: float | None = None
    initial_metadata: tuple[tuple[str, str], ...] = ()

    def with_metadata(self, pairs: Mapping[str, str]) -> GrpcService:
        """Each key once: the most specific value wins."""
        merged = dict(self.initial_metadata) | dict(pairs)
        return replace(self, initial_metadata=tuple(merged.items()))

    @classmethod
    def read(cls, fields: Fields) -> GrpcService:
        envoy, google = fields.message("envoy_grpc"), fields.message("google_grpc")
        if envoy is not None:
            cluster = envoy.text("cluster_name")
            envoy.ignore("authority", "retry_policy", "max_receive_message_length", "skip_envoy_headers")
            envoy.finish()
        elif google is not None:
            cluster = google.text("target_uri")
        else:
            raise ConfigError(f"{fields.where}: expected envoy_grpc or google_grpc")
        service = cls(cluster, fields.seconds("timeout"), _metadata_pairs(fields, "initial_metadata"))
        fields.ignore("retry_policy")
        fields.finish()
        return service


def _metadata_pairs(fields: Fields, name: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for entry in fields.messages(name):
        value = entry.text("value")
        try:
            formats = formats_in(value)
        except ValueError as error:
            raise ConfigError(f"{entry.where}: {error}: Envoy makes no call then") from None
        if formats:
            raise ConfigError(f"{entry.where}: {formats[0]} is not simulated")
        pairs.append((entry.text("key"), as_sent(value)))
        entry.finish()
    return tuple(pairs)


@dataclass(frozen=True, slots=True)
class ProcessingMode:
    request_header_mode: str = "DEFAULT"
    response_header_mode: str = "DEFAULT"
    request_body_mode: str = "NONE"
    response_body_mode: str = "NONE"
    request_trailer_mode: str = "DEFAULT"
    response_trailer_mode: str = "DEFAULT"

    @classmethod
    def read(cls, fields: Fields) -> ProcessingMode:
        mode = cls(
            *(fields.choice(f"{direction}_header_mode", HEADER_MODES) for direction in _DIRECTIONS),
            *(fields.choice(f"{direction}_body_mode", BODY_MODES) for direction in _DIRECTIONS),
            *(fields.choice(f"{direction}_trailer_mode", HEADER_MODES) for direction in _DIRECTIONS),
        )
        fields.finish()
        return mode

    def sends_headers(self, direction: str) -> bool:
        return bool(getattr(self, f"{direction}_header_mode") != "SKIP")

    def body(self, direction: str) -> str:
        mode: str = getattr(self, f"{direction}_body_mode")
        return mode

    def sends_trailers(self, direction: str) -> bool:
        return bool(getattr(self, f"{direction}_trailer_mode") == "SEND")

    def overridden(self, wanted: ProcessingMode) -> ProcessingMode:
        """What a `mode_override` makes of it. DEFAULT changes nothing; body modes are replaced."""
        kept = {name: getattr(self, name) for name in _HEADER_FIELDS if getattr(wanted, name) == "DEFAULT"}
        return replace(wanted, **kept)

    def matches_allowed(self, allowed: ProcessingMode) -> bool:
        """Whether it is this entry of `allowed_override_modes`: the request headers do not count."""
        return replace(self, request_header_mode="DEFAULT") == replace(allowed, request_header_mode="DEFAULT")


_DIRECTIONS = ("request", "response")
_HEADER_FIELDS = (
    "request_header_mode",
    "response_header_mode",
    "request_trailer_mode",
    "response_trailer_mode",
)
ALL_SKIPPED = ProcessingMode("SKIP", "SKIP")


@dataclass(frozen=True, slots=True)
class ExtProcConfig:
    service: GrpcService
    mode: ProcessingMode = ProcessingMode()
    #: Without what routes say: by it, Envoy judges a `mode_override`.
    filters_mode: ProcessingMode = ProcessingMode()
    failure_mode_allow: bool = False
    message_timeout_s: float = DEFAULT_MESSAGE_TIMEOUT_S
    max_message_timeout_s: float = 0.0
    request_attributes: tuple[str, ...] = ()
    response_attributes: tuple[str, ...] = ()
    rules: MutationRules = field(default_factory=MutationRules)
    forwards: ForwardRules = field(default_factory=ForwardRules)
    allow_mode_override: bool = False
    allowed_override_modes: tuple[ProcessingMode, ...] = ()
    disable_immediate_response: bool = False
    forwarding_namespaces: tuple[str, ...] = ()
    receiving_namespaces: tuple[str, ...] = ()
    observability_mode: bool = False
    route_cache_action: str = "DEFAULT"
    send_body_at_once: bool = False
    status_on_error: int = 500
    is_disabled: bool = False

    @classmethod
    def read(cls, fields: Fields) -> ExtProcConfig:
        service = fields.message("grpc_service")
        if service is None:
            raise ConfigError(f"{fields.where}: grpc_service is not set; http_service is not simulated")
        options = fields.message("metadata_options")
        mode_fields = fields.message("processing_mode")
        mode = ProcessingMode() if mode_fields is None else ProcessingMode.read(mode_fields)
        action = fields.choice("route_cache_action", ("DEFAULT", "CLEAR", "RETAIN"))
        forwards = fields.message("forward_rules")
        config = cls(
            service=GrpcService.read(service),
            mode=mode,
            filters_mode=mode,
            failure_mode_allow=fields.flag("failure_mode_allow"),
            message_timeout_s=seconds_or(fields.seconds("message_timeout"), DEFAULT_MESSAGE_TIMEOUT_S),
            max_message_timeout_s=seconds_or(fields.seconds("max_message_timeout"), 0.0),
            request_attributes=fields.words("request_attributes"),
            response_attributes=fields.words("response_attributes"),
            rules=mutation_rules(fields.message("mutation_rules")),
            forwards=forward_rules(forwards),
            allow_mode_override=fields.flag("allow_mode_override"),
            allowed_override_modes=tuple(
                ProcessingMode.read(entry) for entry in fields.messages("allowed_override_modes")
            ),
            disable_immediate_response=fields.flag("disable_immediate_response"),
            observability_mode=fields.flag("observability_mode"),
            route_cache_action="RETAIN" if fields.flag("disable_clear_route_cache") else action,
            send_body_at_once=fields.flag("send_body_without_waiting_for_header_response"),
            status_on_error=fields.status("status_on_error", 500),
            **_namespaces(options),
        )
        fields.ignore("stat_prefix", "filter_metadata", "deferred_close_timeout")
        fields.finish()
        return config

    def on_route(self, fields: Fields) -> ExtProcConfig:
        """With what an `ExtProcPerRoute` says."""
        if fields.flag("disabled"):
            return replace(self, is_disabled=True)
        overrides = fields.message("overrides")
        fields.finish()
        if overrides is None:
            return replace(self, is_disabled=False)
        changes: dict[str, Any] = _namespaces(overrides.message("metadata_options"))
        mode, service = overrides.message("processing_mode"), overrides.message("grpc_service")
        if mode is not None:
            changes["mode"] = ProcessingMode.read(mode)
        given = self.service if service is None else GrpcService.read(service)
        changes["service"] = given.with_metadata(dict(_metadata_pairs(overrides, "grpc_initial_metadata")))
        if "failure_mode_allow" in overrides:
            changes["failure_mode_allow"] = overrides.flag("failure_mode_allow")
        # Envoy does not implement the attributes of a route.
        overrides.ignore("request_attributes", "response_attributes", "async_mode")
        overrides.finish()
        return replace(self, is_disabled=False, **changes)


def _namespaces(options: Fields | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if options is None:
        return found
    for name in ("forwarding_namespaces", "receiving_namespaces"):
        fields = options.message(name)
        if fields is not None:
            found[name] = fields.words("untyped")
            fields.ignore("typed")
            fields.finish()
    # Namespaces of clusters have no part in this.
    options.ignore("cluster_metadata_forwarding_namespaces")
    options.finish()
    return found


def mutation_rules(fields: Fields | None) -> MutationRules:
    if fields is None:
        return MutationRules()
    rules = MutationRules(
        allow_all_routing=fields.flag("allow_all_routing"),
        allow_envoy=fields.flag("allow_envoy"),
        disallow_system=fields.flag("disallow_system"),
        disallow_all=fields.flag("disallow_all"),
        allow_expression=fields.pattern("allow_expression"),
        disallow_expression=fields.pattern("disallow_expression"),
        disallow_is_error=fields.flag("disallow_is_error"),
    )
    fields.finish()
    return rules


def forward_rules(fields: Fields | None) -> ForwardRules:
    if fields is None:
        return ForwardRules()
    rules = ForwardRules(
        *(_matchers(fields.message(f"{kind}_headers")) for kind in ("allowed", "disallowed"))
    )
    fields.finish()
    return rules


def _matchers(fields: Fields | None) -> tuple[StringMatcher, ...]:
    """A `ListStringMatcher`."""
    if fields is None:
        return ()
    matchers = []
    for entry in fields.messages("patterns"):
        ignore_case = entry.flag("ignore_case")
        kind = next((kind for kind in _MATCHERS if kind in entry), None)
        if kind is None:
            raise ConfigError(f"{entry.where}: expected one of {', '.join(_MATCHERS)}")
        pattern = entry.pattern(kind) if kind == "safe_regex" else None
        text = entry.text(kind) if pattern is None else pattern.pattern
        entry.finish()
        matchers.append(StringMatcher(kind, text, ignore_case=ignore_case))
    fields.finish()
    return tuple(matchers)


_MATCHERS = ("exact", "prefix", "suffix", "contains", "safe_regex")


@dataclass(frozen=True, slots=True)
class RequestBody:
    """`with_request_body`."""

    max_bytes: int
    allow_partial: bool = False
    as_bytes: bool = False

    @classmethod
    def read(cls, fields: Fields) -> RequestBody:
        body = cls(
            fields.whole("max_request_bytes"),
            fields.flag("allow_partial_message"),
            fields.flag("pack_as_bytes"),
        )
        fields.finish()
        return body


@dataclass(frozen=True, slots=True)
class ExtAuthzConfig:
    service: GrpcService
    failure_mode_allow: bool = False
    failure_mode_allow_header_add: bool = False
    body: RequestBody | None = None
    clear_route_cache: bool = False
    status_on_error: int = 403
    validate_mutations: bool = False
    encode_raw_headers: bool = False
    forwards: ForwardRules = field(default_factory=ForwardRules)
    rules: MutationRules | None = None
    metadata_namespaces: tuple[str, ...] = ()
    route_metadata_namespaces: tuple[str, ...] = ()
    takes_metadata: bool = True
    context_extensions: tuple[tuple[str, str], ...] = ()
    is_disabled: bool = False

    @classmethod
    def read(cls, fields: Fields) -> ExtAuthzConfig:
        service = fields.message("grpc_service")
        if service is None:
            raise ConfigError(f"{fields.where}: grpc_service is not set; http_service is not simulated")
        body, rules = fields.message("with_request_body"), fields.message("decoder_header_mutation_rules")
        config = cls(
            service=GrpcService.read(service),
            failure_mode_allow=fields.flag("failure_mode_allow"),
            failure_mode_allow_header_add=fields.flag("failure_mode_allow_header_add"),
            body=None if body is None else RequestBody.read(body),
            clear_route_cache=fields.flag("clear_route_cache"),
            status_on_error=fields.status("status_on_error", 403),
            validate_mutations=fields.flag("validate_mutations"),
            encode_raw_headers=fields.flag("encode_raw_headers"),
            forwards=ForwardRules(
                _matchers(fields.message("allowed_headers")), _matchers(fields.message("disallowed_headers"))
            ),
            rules=None if rules is None else mutation_rules(rules),
            metadata_namespaces=fields.words("metadata_context_namespaces"),
            route_metadata_namespaces=fields.words("route_metadata_context_namespaces"),
            takes_metadata=fields.flag("enable_dynamic_metadata_ingestion", True),
        )
        fields.ignore(
            *("transport_api_version", "stat_prefix", "filter_metadata", "include_peer_certificate"),
            *("include_tls_session", "charge_cluster_response_stats", "emit_filter_state_stats"),
            *("typed_metadata_context_namespaces", "route_typed_metadata_context_namespaces"),
            "bootstrap_metadata_labels_key",
        )
        fields.finish()
        return config

    def on_route(self, fields: Fields) -> ExtAuthzConfig:
        """With what an `ExtAuthzPerRoute` says."""
        if fields.flag("disabled"):
            return replace(self, is_disabled=True)
        settings = fields.message("check_settings")
        fields.finish()
        if settings is None:
            return replace(self, is_disabled=False)
        extensions = dict(self.context_extensions)
        extensions |= {str(key): str(value) for key, value in settings.named("context_extensions")}
        body = settings.message("with_request_body")
        changed = replace(self, is_disabled=False, context_extensions=tuple(extensions.items()))
        if settings.flag("disable_request_body_buffering"):
            changed = replace(changed, body=None)
        elif body is not None:
            changed = replace(changed, body=RequestBody.read(body))
        settings.finish()
        return changed


@dataclass(frozen=True, slots=True)
class SetMetadataConfig:
    """Namespaces, their values, and whether they may write over what is there."""

    entries: tuple[tuple[str, dict[str, Any], bool], ...]
    is_disabled: bool = False

    @classmethod
    def read(cls, fields: Fields) -> SetMetadataConfig:
        entries = []
        for entry in fields.messages("metadata"):
            namespace, value = entry.text("metadata_namespace"), entry.raw("value", {})
            entries.append((namespace, value, entry.flag("allow_overwrite")))
            entry.finish()
        if "metadata_namespace" in fields:
            entries.append((fields.text("metadata_namespace"), fields.raw("value", {}), True))
        fields.finish()
        return cls(tuple(entries))

    def on_route(self, fields: Fields) -> SetMetadataConfig:
        return replace(SetMetadataConfig.read(fields), is_disabled=False)
