"""Findings about what one handler did: edits without effect, or with another one than meant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from coprocess.api.http import canonical_name
from coprocess.desk.findings import Severity
from coprocess.desk.trees import ABSENT
from coprocess.desk.tyk.trial.changes import Edit, shown
from coprocess.desk.tyk.trial.findings import Finding
from coprocess.gateways.tyk.wire import Object, ReturnOverrides

if TYPE_CHECKING:
    from coprocess.desk.tyk.trial.gateway import HookTrial

_SHOWN_EDITS = 3
_LONGEST_VALUE = 60


def of_hook(hook: HookTrial) -> Iterator[Finding]:
    yield from _ignored(hook)
    reply = hook.call.reply
    if reply is None:
        return
    if hook.type == "Response":
        yield from _lost_response_headers(hook, reply)
    else:
        yield from _request_edits(hook, reply)


def native(hook: HookTrial) -> bool:
    """Whether the advice is for the native style; also where the style is not known."""
    return hook.style != "embedded"


# Edits without effect


def _ignored(hook: HookTrial) -> Iterator[Finding]:
    by_field: dict[str, list[Edit]] = {}
    for edit in hook.ignored_edits:
        field = edit.field
        group = edit.path[0] if edit.path[0] == "session" else field
        by_field.setdefault(group, []).append(edit)
    for field, edits in by_field.items():
        effect, remedy = _advice(hook, field, edits[0])
        yield Finding(Severity.WARNING, "edit-ignored", f"It edited {_list(edits)}.", effect, remedy, hook)


def _advice(hook: HookTrial, field: str, edit: Edit) -> tuple[str, str]:
    leaf, value = edit.path[-1], "…" if edit.after is ABSENT else _quoted(edit.after)
    removed = edit.after is ABSENT
    if hook.type == "Response" and field.startswith("request"):
        if field == "request.return_overrides":
            advice = (
                "return respond(STATUS, BODY)" if native(hook) else "set response.status_code and raw_body"
            )
        else:
            advice = "edit the response; edit the request in a Post hook"
        return (
            "The request is over when a Response hook runs: the gateway reads the response only, and nothing "
            "of this.",
            f"{advice[0].upper()}{advice[1:]}.",
        )
    if field == "request.headers":
        if native(hook):
            advice = f'del request.headers["{leaf}"]' if removed else f'request.headers["{leaf}"] = {value}'
        else:
            advice = (
                f'request.delete_header("{leaf}")' if removed else f'request.add_header("{leaf}", {value})'
            )
        return (
            "The map `headers` is only for reading: the gateway applies set_headers and delete_headers, and "
            "sent the headers on as they were.",
            f"Write {advice}.",
        )
    if field == "request.params":
        if native(hook):
            advice = f'del request.query["{leaf}"]' if removed else f'request.query["{leaf}"] = {value}'
        else:
            advice = f'request.delete_param("{leaf}")' if removed else f'request.add_param("{leaf}", {value})'
        return (
            "The map `params` is only for reading: the gateway applies add_params and delete_params, and "
            "sent the query on as it was.",
            f"Write {advice}.",
        )
    if field in ("request.body", "response.body"):
        part = field.partition(".")[0]
        return (
            "The gateway reads raw_body only: the body went on as it was.",
            f"Write {part}.body = … of coprocess's {part.capitalize()}, or set {part}.raw_body (bytes).",
        )
    if field == "session":
        return (
            f"The gateway takes the session that CustomKeyCheck made; what a {hook.type} hook changes is "
            "dropped when the hook returns.",
            "Change the session in CustomKeyCheck. To hand something to later hooks, set a request header.",
        )
    if field == "metadata":
        return (
            f"The gateway takes metadata from CustomKeyCheck only: it dropped what the {hook.type} hook set.",
            "Set it in CustomKeyCheck: later hooks then see it, in their session's metadata too.",
        )
    return (
        "The gateway does not read this back.",
        "Leave it: what a handler can change is method, path, query, headers and body.",
    )


# Edits with an effect that may surprise


def _request_edits(hook: HookTrial, reply: Object) -> Iterator[Finding]:
    edited, sent = reply.request, hook.call.object.request
    touched = [*edited.set_headers, *edited.delete_headers]
    if any(canonical_name(name) == "Host" for name in touched):
        yield Finding(
            Severity.WARNING,
            "host-ignored",
            "It edited the header Host.",
            "The gateway sets Host itself, from the API's target: the edit has no effect.",
            "Change proxy.target_url in the API definition, or send the name in a header of your own.",
            hook,
        )
    query, new_query = urlsplit(sent.url).query, urlsplit(edited.url).query
    if edited.url != sent.url and new_query != query and new_query:
        yield Finding(
            Severity.WARNING,
            "url-query-ignored",
            f"It set the URL to {edited.url}, with a query.",
            f"Of a new URL the gateway takes the path; the query stays {f'?{query}' if query else 'empty'}.",
            f"Edit the query itself: {'request.query[…] = …' if native(hook) else 'request.add_param(…)'}.",
            hook,
        )
    yield from _override_findings(hook, edited.return_overrides)
    org = reply.session.org_id
    own_org = dict(hook.call.object.spec).get("OrgID", "")
    if hook.type == "CustomKeyCheck" and org and org != own_org:
        yield Finding(
            Severity.NOTE,
            "org-id-overwritten",
            f'It set session.org_id to "{org}".',
            f'The gateway overwrites it with the API\'s, "{own_org}".',
            "Leave it out.",
            hook,
        )


def _override_findings(hook: HookTrial, overrides: ReturnOverrides) -> Iterator[Finding]:
    code = overrides.response_code
    text = overrides.response_error or overrides.response_body
    if code <= 0:
        if text or overrides.headers:
            yield Finding(
                Severity.WARNING,
                "override-without-status",
                "It filled return_overrides and set no response_code.",
                f"With response_code {code} the gateway ignores the whole block, headers too: the request "
                "went on.",
                "Return respond(STATUS, BODY), or raise Reject(STATUS, MESSAGE)."
                if native(hook)
                else "Set return_overrides.response_code, from 200 on.",
                hook,
            )
        return
    if overrides.response_error and overrides.response_body:
        yield Finding(
            Severity.WARNING,
            "override-error-wins",
            "It set both response_error and response_body.",
            "response_error wins: the client did not get response_body.",
            "Set one of them.",
            hook,
        )
    if (
        code >= 400
        and not overrides.override_error
        and overrides.response_body.lstrip()[:1] in ("{", "[", "<")
    ):
        yield Finding(
            Severity.WARNING,
            "override-wrapped",
            f"It answered {code} with a body of its own, without override_error.",
            'The gateway takes the body for a message: the client got {"error": "…"} around it, and '
            "AuthFailure was fired.",
            "Return respond(STATUS, BODY)."
            if native(hook)
            else "Set return_overrides.override_error = True, and the body is sent as it is.",
            hook,
        )


def _lost_response_headers(hook: HookTrial, reply: Object) -> Iterator[Finding]:
    before, after = dict(hook.call.object.response.headers), dict(reply.response.headers)
    if before == after or not reply.HasField("response"):
        return
    lost = [header.key for header in reply.response.multivalue_headers if header.key not in after]
    if lost:
        yield Finding(
            Severity.WARNING,
            "response-headers-lost",
            f"It changed the map `headers`, and {', '.join(lost)} is in multivalue_headers only.",
            "As soon as the map `headers` differs, the gateway drops every name that is not in it.",
            "Keep the two in step: make each edit in both, or edit multivalue_headers alone.",
            hook,
        )


def _list(edits: list[Edit]) -> str:
    parts = [
        f"{'.'.join(edit.path)} (taken away)"
        if edit.after is ABSENT
        else f"{'.'.join(edit.path)} = {_short(edit.after)}"
        for edit in edits[:_SHOWN_EDITS]
    ]
    if len(edits) > _SHOWN_EDITS:
        parts.append(f"{len(edits) - _SHOWN_EDITS} more")
    return ", ".join(parts)


def _short(value: object) -> str:
    text = shown(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def _quoted(value: object) -> str:
    text = _short(value).replace('"', '\\"')
    return f'"{text}"'
