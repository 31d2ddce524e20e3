"""Findings about bodies that were replaced, under headers that tell of the old bytes.

The views drop these headers; who edits the messages themselves has to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from coprocess.api import content_coding
from coprocess.api.body import OF_THE_BYTES
from coprocess.api.http import canonical_name
from coprocess.desk.findings import Severity
from coprocess.desk.tyk.trial.findings import Finding
from coprocess.desk.tyk.trial.hook_findings import native
from coprocess.desk.tyk.trial.mended_findings import response_headers
from coprocess.errors import BadBody
from coprocess.gateways.tyk.wire import Object

if TYPE_CHECKING:
    from coprocess.desk.tyk.trial.gateway import HookTrial

_CODING = "Content-Encoding"
# Of a request, these tell nothing of its body.
_OF_RESPONSES = frozenset({"Etag", "Accept-Ranges"})


def of_hook(hook: HookTrial) -> Iterator[Finding]:
    sent, reply = hook.call.object, hook.call.reply
    if reply is None:
        return
    part = "response" if hook.type == "Response" else "request"
    body = getattr(reply, part).raw_body
    if body == getattr(sent, part).raw_body or not body:
        return
    before, after = _headers(sent, sent, part), _headers(sent, reply, part)
    stale = [name for name in before if name in OF_THE_BYTES and after.get(name) == before[name]]
    if part == "request":
        stale = [name for name in stale if name not in _OF_RESPONSES]
    if _CODING in stale:
        stale.remove(_CODING)
        yield from _wrong_coding(hook, part, ", ".join(after[_CODING]), body)
    if stale:
        yield Finding(
            Severity.WARNING,
            "body-headers-kept",
            f"It replaced the {part}'s body and left {_list(stale)}.",
            "They tell of the old bytes: who checks them refuses the new ones.",
            _remedy(hook, part, stale),
            hook,
        )


def _wrong_coding(hook: HookTrial, part: str, coding: str, body: bytes) -> Iterator[Finding]:
    try:
        content_coding.decode(body, coding, "it")
    except BadBody as error:
        if error.http_status != 400:  # It cannot be told.
            return
        reader = "client" if part == "response" else "upstream"
        yield Finding(
            Severity.ERROR,
            "body-not-encoded",
            f"It replaced the {part}'s body and left Content-Encoding: {coding}.",
            f"The new bytes are not {coding}: the {reader} cannot read them.",
            _remedy(hook, part, [_CODING]),
            hook,
        )


def _remedy(hook: HookTrial, part: str, names: list[str]) -> str:
    views = f"{part}.body = … of coprocess's {part.capitalize()} drops what is wrong then"
    if native(hook):
        return f"Write {views}.".replace(" drops", ", which drops")
    if part == "request":
        calls = ", ".join(f'request.delete_header("{name}")' for name in names)
        return f"Write {calls}; {views}."
    deletions = ", ".join(f'response.headers.pop("{name}", "")' for name in names)
    return f"Write {deletions}; {views}."


def _headers(sent: Object, reply: Object, part: str) -> dict[str, list[str]]:
    """As the gateway goes on with them, by canonical name."""
    if part == "response":
        return {canonical_name(name): values for name, values in response_headers(sent, reply).items()}
    deleted = {canonical_name(name) for name in reply.request.delete_headers}
    came = {canonical_name(name): [value] for name, value in sent.request.headers.items()}
    kept = {name: values for name, values in came.items() if name not in deleted}
    return kept | {canonical_name(name): [value] for name, value in reply.request.set_headers.items()}


def _list(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
