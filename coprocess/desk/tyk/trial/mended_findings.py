"""Findings about what the reply guard mended: a server without one would have let it through."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from coprocess.desk.findings import Severity
from coprocess.desk.tyk.simulator.apply import synchronized
from coprocess.desk.tyk.trial.findings import Finding
from coprocess.gateways.tyk.wire import Object

if TYPE_CHECKING:
    from coprocess.desk.tyk.trial.gateway import HookTrial


def of_hook(hook: HookTrial) -> Iterator[Finding]:
    if hook.run is None or hook.run.left is None or hook.run.guarded is None:
        return
    sent, left, guarded = hook.call.object, hook.run.left, hook.run.guarded
    if hook.type != "Response" and is_new_request(left):
        lacking = [name for name in _NEEDED if _has(sent, name) and not _has(left, name)]
        if lacking:
            yield _note(
                hook,
                "new-object",
                f"It put a new request in place of the one that came, without {', '.join(lacking)}.",
                "The gateway takes that at its word: it answers an empty URL with 500, empties the body, and "
                "drops the connection where return_overrides are missing.",
                "Edit the request that is passed, or set every field of the new one.",
            )
        return
    for part in ("request", "response"):
        one, other = getattr(left, part), getattr(guarded, part)
        if one.raw_body == other.raw_body:
            continue
        if other.raw_body == getattr(sent, part).raw_body:
            yield _note(
                hook,
                "body-missing",
                f"It left a {part} without a body, as a new object has none.",
                "An empty raw_body empties the body.",
                f"Edit the {part} that is passed, instead of a new one.",
            )
        else:
            yield _note(
                hook,
                "body-only",
                f"It edited {part}.body and not {part}.raw_body.",
                "The gateway reads raw_body only, and would have sent the old body.",
                f"Set {part}.raw_body (bytes); coprocess's own {part.capitalize()}.body sets both.",
            )
    if hook.type == "Response":
        yield from _mended_response(hook, left, guarded)
        return
    if not left.request.HasField("return_overrides") and guarded.request.HasField("return_overrides"):
        yield _note(
            hook,
            "overrides-missing",
            "It left the request without return_overrides.",
            "The gateway panics where they are missing: its client sees the connection end, unanswered.",
            "Edit the request that is passed, instead of a new one.",
        )


_NEEDED = ("url", "raw_body", "return_overrides")


def is_new_request(left: Object) -> bool:
    """Whether the handler made the request itself. One that came has a request_uri, which none edits."""
    return not left.request.request_uri


def _has(message: Object, name: str) -> bool:
    if name == "return_overrides":
        return message.request.HasField("return_overrides")
    return bool(getattr(message.request, name))


def _mended_response(hook: HookTrial, left: Object, guarded: Object) -> Iterator[Finding]:
    if left.response.status_code == 0 != guarded.response.status_code:
        yield _note(
            hook,
            "status-zero",
            "It left the response with status_code 0.",
            "The gateway panics on it: its client sees the connection end, without an answer.",
            "Set a status from 200 to 999, or edit the response that is passed, instead of a new one.",
        )
    sent = hook.call.object
    if response_headers(sent, left) != response_headers(sent, guarded):
        yield _note(
            hook,
            "response-headers-mended",
            "It edited one of the response's two forms of headers, and not the other.",
            "Once the map `headers` differs, the gateway drops what is in multivalue_headers only; edits of "
            "one form get lost in the other.",
            "Write response.headers[…] = … of coprocess's Response, which keeps both in step.",
        )


def response_headers(sent: Object, reply: Object) -> dict[str, list[str]]:
    multivalue = [(header.key, list(header.values)) for header in reply.response.multivalue_headers]
    if dict(sent.response.headers) != dict(reply.response.headers):
        multivalue = synchronized(dict(reply.response.headers), multivalue)
    return {name: values for name, values in multivalue if values}


def _note(hook: HookTrial, rule: str, problem: str, effect: str, remedy: str) -> Finding:
    return Finding(
        Severity.NOTE, rule, problem, f"{effect} The reply guard of coprocess mended it.", remedy, hook
    )
