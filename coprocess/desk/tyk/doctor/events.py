"""Rules on event listeners."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from coprocess.api.moments import HookType
from coprocess.desk.tyk.doctor.api import Api, EventUse
from coprocess.desk.tyk.doctor.findings import Finding, Severity
from coprocess.desk.tyk.doctor.names import check_name, spec_of
from coprocess.desk.tyk.doctor.project import Project

#: What the gateway fires, spelt as it does.
EVENTS = (
    "AuthFailure",
    "BreakerReset",
    "BreakerTriggered",
    "BreakerTripped",
    "CertificateExpired",
    "CertificateExpiringSoon",
    "HostDown",
    "HostUp",
    "KeyExpired",
    "OAuth2ScopeCheckFailed",
    "OrgQuotaExceeded",
    "OrgRateLimitExceeded",
    "QuotaExceeded",
    "RateLimitSmoothingDown",
    "RateLimitSmoothingUp",
    "RatelimitExceeded",
    "TokenCreated",
    "TokenDeleted",
    "TokenUpdated",
    "TriggerExceeded",
    "VersionFailure",
)

PLUGIN_HANDLER = "cp_dynamic_handler"
#: The others: a webhook, a script inside the gateway, its log.
_OTHER_HANDLERS = ("eh_web_hook_handler", "eh_dynamic_handler", "eh_log_handler")
_NEVER = "The gateway runs no handler when the event happens, and says nothing about it."


def check_events(project: Project, api: Api) -> Iterator[Finding]:
    """What is wrong with a definition's listeners."""
    ours = {hook.name for hook in project.loaded.table if hook.type is HookType.Event}
    for lost in api.lost_events:
        if lost.is_script and lost.function not in ours:
            continue
        yield api.document.finding(
            Severity.ERROR,
            "event-oas",
            lost.path,
            f"An OAS definition cannot send events to plugins; here it names {lost.function or 'a handler'}.",
            _NEVER,
            "Register the listener in a classic definition of the API, under event_handlers.events.",
        )
    misspelt = set()
    for use in api.events:
        if use.event not in EVENTS and use.event not in misspelt:
            misspelt.add(use.event)
            yield _unknown_event(api, use)
        if use.kind != PLUGIN_HANDLER:
            yield from _check_kind(api, use, ours)
        elif not use.function:
            yield api.document.finding(
                Severity.ERROR,
                "event-nameless",
                use.function_path,
                f"The listener of {use.event} names no function.",
                _NEVER,
                f'Write "handler_meta": {{"name": "FUNCTION"}} beside "handler_name": "{PLUGIN_HANDLER}".',
            )
        else:
            yield from check_name(
                project, HookType.Event, use.function, api.document, use.function_path, spec_of(api)
            )


def _unknown_event(api: Api, use: EventUse) -> Finding:
    folded = {event.lower(): event for event in EVENTS}
    near = [folded[match] for match in difflib.get_close_matches(use.event.lower(), folded, n=2, cutoff=0.7)]
    return api.document.finding(
        Severity.ERROR if near else Severity.WARNING,
        "event-unknown",
        use.event_path,
        f'The gateway fires no event "{use.event}".' + (f" It fires {' and '.join(near)}." if near else ""),
        "The handler is never run: names are compared letter by letter, large and small ones too.",
        f"Write {near[0]}." if near else f"Known are: {', '.join(EVENTS)}.",
    )


def _check_kind(api: Api, use: EventUse, ours: set[str]) -> Iterator[Finding]:
    # Webhooks, scripts and logs are all right, unless they name what only plugins have.
    if use.kind in _OTHER_HANDLERS and use.function not in ours:
        return
    yield api.document.finding(
        Severity.ERROR,
        "event-wrong-handler-type",
        use.kind_path,
        f'handler_name is "{use.kind}", which does not call plugins.',
        _NEVER,
        f'Write "handler_name": "{PLUGIN_HANDLER}".',
    )
