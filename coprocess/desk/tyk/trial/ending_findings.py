"""Findings about how a request ended, where the gateway ended it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from coprocess.desk.findings import Severity
from coprocess.desk.tracebacks import how_it_failed, raised_at, sentence
from coprocess.desk.tyk.trial.findings import Finding
from coprocess.desk.tyk.trial.hook_findings import native
from coprocess.errors import UnknownHook

if TYPE_CHECKING:
    from coprocess.desk.tyk.trial.gateway import HookTrial, Trial


def of_trial(trial: Trial) -> Iterator[Finding]:
    exchange = trial.exchange
    last = trial.hooks[-1] if trial.hooks else None
    for hook in trial.hooks:
        if hook.failed and hook.call.error is None:
            yield _failed_unseen(hook)
    if exchange.dropped is not None:
        yield _dropped(exchange.dropped, last)
    elif exchange.failure == "call" and last is not None:
        yield _failed_call(last)
    elif exchange.failure in _ENDINGS:
        yield _ending(trial, last)
    elif trial.status == 404 and not trial.hooks and exchange.upstream_request is None:
        listen = trial.definition.listen_path
        yield Finding(
            Severity.ERROR,
            "not-listening",
            f"{trial.target.partition('?')[0]} is not under the API's listen path, {listen}.",
            "The gateway answered 404 itself: no hook was called.",
            f"Ask for {listen}…, or change proxy.listen_path in the definition.",
        )


def _failed_unseen(hook: HookTrial) -> Finding:
    on_error = hook.run is not None and hook.run.hook is not None and hook.run.hook.limits.on_error == "open"
    return Finding(
        Severity.ERROR,
        "handler-failed",
        _how(hook),
        'It has on_error="open": the request was passed on unchanged.'
        if on_error
        else "By the setting failure_status, the service answered the client in its place.",
        _MEND_HANDLER,
        hook,
    )


_MEND_HANDLER = "Mend the handler: the traceback above shows the place."


def _how(hook: HookTrial) -> str:
    return how_it_failed(hook.type, hook.name, hook.raised, hook.error)


def _client_sees(hook: HookTrial) -> str:
    if hook.type == "CustomKeyCheck":
        return "the client got 403 Key not authorised, as if its key were wrong"
    return "the client got 500 Middleware error"


def _failed_call(hook: HookTrial) -> Finding:
    effect = f"The gateway got no reply but the gRPC status {hook.status}; {_client_sees(hook)}."
    unknown = hook.run is not None and isinstance(hook.run.error, UnknownHook)
    if unknown or hook.status == "NOT_FOUND":
        return Finding(
            Severity.ERROR,
            "hook-unknown",
            sentence(hook.error or "no such hook"),
            effect,
            f'Name the function {hook.name}, or declare it @{hook.type}(name="{hook.name}"); or mend the '
            "name in the API definition. `coprocess check` lists what is loaded.",
            hook,
        )
    if hook.status == "UNAVAILABLE":
        return Finding(
            Severity.ERROR,
            "server-unavailable",
            f"The plugin server cannot be reached: {hook.error}.",
            effect,
            "Start it with `coprocess serve`, and mind the address.",
            hook,
        )
    if hook.status == "RESOURCE_EXHAUSTED" and (hook.run is None or hook.run.error is None):
        return Finding(
            Severity.ERROR,
            "message-too-large",
            sentence(hook.error or ""),
            effect,
            "By default a message has at most 4 MiB, and a body that is text travels twice. Raise "
            "grpc_recv_max_size and grpc_send_max_size in tyk.conf, or set raw_body_only for the hook.",
            hook,
        )
    if hook.status == "DEADLINE_EXCEEDED":
        return Finding(
            Severity.ERROR,
            "handler-too-slow",
            _how(hook),
            effect,
            "Make it quicker, or give it more time: timeout=SECONDS in its decorator, or the setting "
            "timeout_s.",
            hook,
        )
    return Finding(
        Severity.ERROR, "handler-failed", _how(hook), effect, _MEND_HANDLER if hook.traceback else _MEND, hook
    )


_MEND = "Mend the handler as the message says; raise Reject or return respond(...) to refuse a request."


def _dropped(why: str, hook: HookTrial | None) -> Finding:
    if "no request" in why or "no return_overrides" in why:
        remedy = "A plugin server must always send request and request.return_overrides; coprocess does."
    else:
        remedy = "Set a status from 200 to 999."
    effect = "The gateway dropped the connection: its client sees the connection end, without any answer."
    return Finding(Severity.ERROR, "connection-dropped", sentence(why), effect, remedy, hook)


def _ending(trial: Trial, last: HookTrial | None) -> Finding:
    reason = trial.exchange.failure
    assert reason is not None  # noqa: S101 - by the caller
    if reason == "no-token":
        return _no_token(last)
    problem, remedy = _ENDINGS[reason]
    if reason == "upstream" and trial.upstream_error:
        problem = f"The upstream did not answer: {trial.upstream_error}."
    response = trial.exchange.http_response
    answer = f"{response.status}" if response is not None else "an error"
    whose = last if reason in _OF_THE_LAST_HOOK else _of_type(trial, "CustomKeyCheck")
    asked = "" if trial.exchange.upstream_request else " The upstream was not asked."
    effect = f"The gateway answered {answer} itself.{asked}"
    return Finding(Severity.ERROR, reason, problem, effect, remedy, None if reason in _OF_NO_HOOK else whose)


def _no_token(hook: HookTrial | None) -> Finding:
    effect = "The gateway answered 403 Forbidden and fired AuthFailure."
    reply = hook.call.reply if hook is not None else None
    if (
        hook is not None
        and reply is not None
        and reply.metadata.get("token")
        and not reply.HasField("session")
    ):
        return Finding(
            Severity.ERROR,
            "no-session",
            'It set metadata["token"] and left the session absent.',
            effect,
            'Set something in the session too (session.rate = …), or write session.allow("TOKEN") with '
            "coprocess.",
            hook,
        )
    remedy = (
        'Write session.allow("TOKEN"), where TOKEN names the caller; to refuse one, raise Reject(401, "…").'
        if hook is None or native(hook)
        else 'Set metadata["token"] to a name of the caller; to refuse one, set return_overrides.'
    )
    problem = "It neither refused the caller nor gave a token."
    return Finding(Severity.ERROR, "no-token", problem, effect, remedy, hook)


def _of_type(trial: Trial, hook_type: str) -> HookTrial | None:
    return next((hook for hook in trial.hooks if hook.type == hook_type), None)


_OF_NO_HOOK = ("not-utf8", "no-auth-plugin", "no-id", "upstream")
_OF_THE_LAST_HOOK = ("url", "no-response", "unsendable")

#: Reason → what is so, and what to do. `call`, `override` and `no-token` are told apart further.
_ENDINGS = {
    "no-token": ("", ""),
    "not-utf8": (
        "The request holds bytes that are not UTF-8, in its URL or a header: no hook can be sent it.",
        "Have the client encode them; the gateway calls no plugin for such a request.",
    ),
    "url": (
        "It left a URL that begins with no slash and is not absolute.",
        "Set a path that begins with a slash.",
    ),
    "no-response": ("Its reply has no response.", "Send back the response that came."),
    "no-auth-plugin": (
        "The definition asks for a key, and names no plugin that checks it.",
        "Set use_keyless to true; or custom_plugin_auth_enabled to true and custom_middleware.auth_check.",
    ),
    "policy": (
        "The session names a policy, and this simulated gateway has none.",
        "Leave policies out to try the rest; on the gateway, the policy must exist.",
    ),
    "inactive": ("The session has is_inactive set.", "Clear it for callers who may pass."),
    "expired": (
        "The session's expires lies in the past.",
        "expires is unix time in seconds; 0 and -1 mean never.",
    ),
    "access-rights": (
        "The session's access_rights do not name this API.",
        "Add the API's id, or leave access_rights empty to allow every API.",
    ),
    "rate": ("The caller has used up its rate.", "session.rate requests pass in session.per seconds."),
    "quota": ("The caller has used up its quota.", "Raise session.quota_max, or let the quota renew."),
    "no-id": (
        "The ID extractor found no value in the request.",
        "Send the header, form field or body that id_extractor names; the plugin is not asked without it.",
    ),
    "unsendable": (
        "A header has a name or a value that HTTP does not allow.",
        "Header names are letters, digits and dashes; values have no line breaks.",
    ),
    "upstream": (
        "The upstream's answer could not be read.",
        "Start the upstream; without --upstream, a simulated one answers.",
    ),
}


def of_events(trial: Trial) -> Iterator[Finding]:
    for event in trial.events:
        if event.ran:
            continue
        raised = event.raised
        problem = event.error or "it failed"
        if raised is not None:
            where = raised_at(raised)
            problem = f"{problem}: {raised}{f' (at {where})' if where else ''}"
        yield Finding(
            Severity.WARNING,
            "event-failed",
            f"The event {event.type} was for {event.handler}, which did not take it: {problem}.",
            "Events change no request: the gateway logs the failure, and does not try again.",
            "Mend the handler, or its name in event_handlers of the definition.",
        )


def of_hooks_not_called(trial: Trial) -> Iterator[Finding]:
    definition = trial.definition
    passed = trial.exchange.upstream_request is not None
    if definition.keyless and (definition.auth_check or definition.post_key_auth):
        hooks = [definition.auth_check] if definition.auth_check else []
        names = ", ".join(hook.name for hook in [*hooks, *definition.post_key_auth])
        yield Finding(
            Severity.WARNING,
            "auth-keyless",
            f"The API is keyless, and its definition names hooks for authentication: {names}.",
            "The gateway never calls them on such an API: everybody may pass.",
            "Set use_keyless to false and custom_plugin_auth_enabled to true.",
        )
    elif (
        passed
        and definition.auth_check
        and _of_type(trial, "CustomKeyCheck") is None
        and not definition.keyless
    ):
        yield Finding(
            Severity.NOTE,
            "session-cached",
            f"{definition.auth_check.name} was not called.",
            "The ID extractor found a session whose id_extractor_deadline is not over, and used that.",
            "That is what cache_for_s and id_extractor_deadline are for; give less, to be asked sooner.",
        )
