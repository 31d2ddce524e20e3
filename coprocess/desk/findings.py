"""What the doctor finds, and the catalogue of all it can find."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any


class Severity(StrEnum):
    """SARIF's names of the levels."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"

    @property
    def rank(self) -> int:
        """0 is the worst."""
        return list(Severity).index(self)


#: Every rule: id → what it looks for. docs/doctor.md tells the rest, and a test holds it to this list.
RULES = {
    "json-broken": "A file is not JSON, or not the JSON it should be",
    "conf-coprocess-off": "tyk.conf leaves plugins switched off",
    "conf-no-address": "tyk.conf names no plugin server",
    "conf-address-form": "The plugin server's address has a form that the gateway does not take",
    "conf-address-mismatch": "The gateway dials another address than this service listens on",
    "conf-tls": "This service wants TLS, which the gateway does not speak to plugin servers",
    "conf-message-limits": "Gateway and service differ in the largest message they take",
    "conf-bundles-off": "A definition names a bundle, but tyk.conf does not let the gateway fetch it",
    "api-duplicate-id": "Two definitions have one API id",
    "api-duplicate-path": "Two definitions listen on one path",
    "api-bundle-replaces-hooks": "A definition names hooks and a bundle: the bundle's manifest wins",
    "driver-wrong": "Hooks are given to another driver than grpc",
    "hook-unknown": "No handler has the name that a hook is given",
    "hook-wrong-decorator": "A handler has the name, but is declared for another moment",
    "hook-ambiguous": "Several handlers have the name, and none is the API's own",
    "hook-nameless": "A hook has no name",
    "auth-not-enabled": "An auth hook is named, but plugin authentication is not enabled",
    "auth-keyless": "An auth hook is named on an API that asks nobody for a key",
    "auth-no-hook": "Plugin authentication is enabled, but no auth hook is named",
    "auth-no-token": "An auth handler never sets the session's token",
    "id-extractor-shared-session": "An ID extractor that gives all callers one session",
    "id-extractor-invalid": "An ID extractor that the gateway does not know",
    "event-oas": "Event handlers in an OAS definition, which cannot reach plugins",
    "event-unknown": "An event's name that the gateway does not fire",
    "event-wrong-handler-type": "An event handler's handler_name does not call plugins",
    "event-nameless": "An event handler names no function",
    "event-no-driver": "Event handlers in a definition without the driver grpc",
    "event-not-here": "An event that the gateway sends to webhooks of tyk.conf only",
    "webhook-method": "A webhook to this service whose method is not POST",
    "webhook-no-template": "A webhook to this service without a template",
    "webhook-template-name": "A webhook's template whose name does not end in .json",
    "webhook-for-ever": "A webhook's cooldown is 0, which means for ever",
    "webhook-no-secret": "A webhook to this service that does not show the secret",
    "manifest-missing": "A bundle has no manifest.json, or is no zip",
    "manifest-checksum": "The manifest's checksum is not that of its files",
    "manifest-file-missing": "The manifest lists a file that is not in the bundle",
    "manifest-unsigned": "A bundle is not signed",
    "handler-broken": "A handler file could not be loaded",
    "handler-unused": "No definition names a handler",
    "handler-edit-ignored": "A handler edits what the gateway does not read back",
    "handler-body-edit": "A handler edits body, of which the gateway reads only raw_body",
    "handler-session-edit": "A handler edits the session where the gateway drops such edits",
    "handler-response-request-edit": "A Response handler edits the request or answers by return_overrides",
    "handler-override-status": "A handler sets a status that is none",
    "handler-override-without-status": "A handler sets an override's text without its status",
    "handler-answer-dropped": "A handler makes an answer and does not give it",
    "handler-host-header": "A handler sets the Host header",
    "handler-url": "A handler sets a URL that the gateway refuses or reads in part",
    "handler-blocking-async": "An async handler makes a call that blocks",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem. The texts are for people who have not read the gateway's source."""

    severity: Severity
    rule: str
    file: Path
    #: As `custom_middleware.pre[0].name`; empty for source code and whole files.
    json_path: str
    #: What is wrong.
    problem: str
    #: What happens at run time because of it.
    effect: str
    #: What to do about it.
    remedy: str
    #: From 1 on; 0: not known.
    line: int = 0
    column: int = 0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"{self.rule} is not in the catalogue")

    @property
    def order(self) -> tuple[Any, ...]:
        """By file, then by place in it."""
        return str(self.file), self.line, self.column, self.severity.rank, self.rule, self.problem

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "severity": self.severity.value,
            "rule": self.rule,
            "file": str(self.file),
            "line": self.line or None,
            "column": self.column or None,
            "json_path": self.json_path or None,
            "problem": self.problem,
            "effect": self.effect,
            "remedy": self.remedy,
        }
