"""Rules on event listeners."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from coprocess.api.moments import HookType
from coprocess.desk.findings import FileFinding, Severity
from coprocess.desk.tyk.definition import PLUGIN_HANDLER, WEBHOOK_HANDLER, Listener
from coprocess.desk.tyk.doctor.api import Api
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
    "UpstreamOAuthError",
    "VersionFailure",
)

#: Of these, those that no definition fires: tyk.conf's own webhooks get them, and its monitor's.
OF_TYK_CONF = ("TokenCreated", "TokenDeleted", "TokenUpdated")
OF_THE_MONITOR = "TriggerExceeded"

#: The others: a webhook, a script inside the gateway, its log.
_OTHER_HANDLERS = (WEBHOOK_HANDLER, "eh_dynamic_handler", "eh_log_handler")
_NEVER = "The gateway runs no handler when the event happens, and says nothing about it."


def check_events(project: Project, api: Api) -> Iterator[FileFinding]:
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
            "Send the event as a webhook (`coprocess events config` prints it), or register the listener in "
            "a classic definition of the API, under event_handlers.events.",
        )
    yield from _check_driver(api)
    misspelt = set()
    for use in api.definition.events:
        if use.event not in EVENTS and use.event not in misspelt:
            misspelt.add(use.event)
            yield _unknown_event(api, use)
        kind = use.kind.text()
        if use.event in (*OF_TYK_CONF, OF_THE_MONITOR) and kind in (PLUGIN_HANDLER, WEBHOOK_HANDLER):
            yield _of_tyk_conf(api, use)
        if kind != PLUGIN_HANDLER:
            yield from _check_kind(api, use, ours)
        elif not use.function.text():
            yield api.document.finding(
                Severity.ERROR,
                "event-nameless",
                use.function.path,
                f"The listener of {use.event} names no function.",
                "The gateway panics when it loads the definition, and ends with exit status 2.",
                f'Write "handler_meta": {{"name": "FUNCTION"}} beside "handler_name": "{PLUGIN_HANDLER}".',
            )
        else:
            name, path = use.function.text(), use.function.path
            yield from check_name(project, HookType.Event, name, api.document, path, spec_of(api))


def _check_driver(api: Api) -> Iterator[FileFinding]:
    """Where there are hooks, too, `driver-wrong` tells it; a bundle has the driver in its manifest."""
    listeners = [use for use in api.definition.events if use.kind.text() == PLUGIN_HANDLER]
    if not listeners or api.driver == "grpc" or api.definition.hooks or api.bundle:
        return
    shown = f'its driver is "{api.driver}"' if api.driver else "no driver is named"
    yield api.document.finding(
        Severity.ERROR,
        "event-no-driver",
        api.definition.driver.path,
        f"The definition has listeners that are plugins, and {shown}.",
        "The gateway drops the listeners when it loads the definition, with a line in its log.",
        'Write "custom_middleware": {"driver": "grpc"}.',
    )


def _of_tyk_conf(api: Api, use: Listener) -> FileFinding:
    where = "monitor" if use.event == OF_THE_MONITOR else "event_handlers"
    return api.document.finding(
        Severity.ERROR,
        "event-not-here",
        use.place.path,
        f"{use.event} is not fired by definitions.",
        _NEVER,
        f"Send it as a webhook, under {where} of tyk.conf: `coprocess events config` prints it.",
    )


def _unknown_event(api: Api, use: Listener) -> FileFinding:
    folded = {event.lower(): event for event in EVENTS}
    near = [folded[match] for match in difflib.get_close_matches(use.event.lower(), folded, n=2, cutoff=0.7)]
    return api.document.finding(
        Severity.ERROR if near else Severity.WARNING,
        "event-unknown",
        use.place.path,
        f'The gateway fires no event "{use.event}".' + (f" It fires {' and '.join(near)}." if near else ""),
        "The handler is never run: names are compared letter by letter, large and small ones too.",
        f"Write {near[0]}." if near else f"Known are: {', '.join(EVENTS)}.",
    )


def _check_kind(api: Api, use: Listener, ours: set[str]) -> Iterator[FileFinding]:
    # Webhooks, scripts and logs are all right, unless they name what only plugins have.
    if use.kind.text() in _OTHER_HANDLERS and use.function.text() not in ours:
        return
    yield api.document.finding(
        Severity.ERROR,
        "event-wrong-handler-type",
        use.kind.path,
        f'handler_name is "{use.kind.text()}", which does not call plugins.',
        _NEVER,
        f'Write "handler_name": "{PLUGIN_HANDLER}".',
    )
