"""Rules on handlers that answer in the upstream's place: overrides, Reject and respond."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from coprocess.api.moments import HookType
from coprocess.desk.findings import FileFinding, Severity
from coprocess.desk.tyk.doctor.source import Handler, number_of

_OVERRIDES = ("request", "object", "return_overrides")


def check_answers(handler: Handler) -> Iterator[FileFinding]:
    """Answers that do not arrive as they are meant."""
    yield from _overrides(handler)
    yield from _makers(handler)


def _overrides(handler: Handler) -> Iterator[FileFinding]:
    if handler.types == {HookType.Response}:
        return
    edits = [edit for edit in handler.edits() if edit.target[:3] == _OVERRIDES]
    for edit in edits:
        code = number_of(edit.value) if edit.target[3:] == ("response_code",) else None
        # -1 is what arrives, and means none.
        if code is None or code == -1 or 100 <= code <= 999:
            continue
        ignored = code <= 0
        yield handler.finding(
            Severity.ERROR,
            "handler-override-status",
            edit.node,
            f"{handler.hook.name} sets response_code to {code}, which is no HTTP status.",
            "The gateway ignores the whole override, and the request goes on to the upstream."
            if ignored
            else "The handler fails: the client gets 500, Middleware error.",
            "Set a status from 200 to 599.",
        )
    texts = [edit for edit in edits if edit.target[3:4] in (("response_error",), ("response_body",))]
    whole = [edit for edit in edits if edit.target == _OVERRIDES or edit.target[3:] == ("response_code",)]
    if texts and not whole and not handler.passes_on(("request",)) and len(handler.with_helpers()) == 1:
        yield handler.finding(
            Severity.ERROR,
            "handler-override-without-status",
            texts[0].node,
            f"{handler.hook.name} sets return_overrides.{texts[0].target[3]} and no response_code.",
            "The gateway ignores the whole override, and the request goes on to the upstream.",
            "Set return_overrides.response_code too: 401, for instance.",
        )


def _makers(handler: Handler) -> Iterator[FileFinding]:
    parents = {child: node for node in ast.walk(handler.node) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(handler.node):
        if not isinstance(node, ast.Call):
            continue
        maker = handler.origin(node.func)
        if maker not in ("coprocess.Reject", "coprocess.respond"):
            continue
        name = maker.removeprefix("coprocess.")
        parent = parents.get(node)
        returned = isinstance(parent, ast.Return)
        if isinstance(parent, ast.Expr) or (returned and name == "Reject"):
            yield handler.finding(
                Severity.ERROR,
                "handler-answer-dropped",
                node,
                f"{handler.hook.name} {'returns' if returned else 'makes'} {name}(…) "
                f"and does not {'raise' if name == 'Reject' else 'return'} it.",
                "The handler fails, and the client gets 500, Middleware error."
                if returned
                else "Nothing happens: the request goes on to the upstream.",
                f"Write `{'raise' if name == 'Reject' else 'return'} {name}(…)`.",
            )
        yield from _status(handler, node, name)


def _status(handler: Handler, node: ast.Call, name: str) -> Iterator[FileFinding]:
    named = [word.value for word in node.keywords if word.arg == "status"]
    status = number_of(next(iter([*node.args[:1], *named]), None))
    low, high = (400, 599) if name == "Reject" else (200, 999)
    if status is not None and not low <= status <= high:
        yield handler.finding(
            Severity.ERROR,
            "handler-override-status",
            node,
            f"{handler.hook.name} gives {name} the status {status}.",
            "It raises ValueError, and the request is answered with an error.",
            f"{name} takes {low} to {high}.",
        )
