"""The rule that an auth handler sets the session's token."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from coprocess.api.moments import HookType
from coprocess.desk.findings import FileFinding, Severity
from coprocess.desk.tyk.doctor.source import Function, Handler, text_of


def check_token(handler: Handler) -> Iterator[FileFinding]:
    """Whether any path sets one. Where code elsewhere may do it, nothing is said."""
    if HookType.CustomKeyCheck not in handler.types:
        return
    # One that refuses everybody needs none.
    if isinstance(handler.node.body[-1], ast.Raise):
        return
    if any(map(_sets_token, handler.with_helpers())) or handler.passes_on(("session", "metadata")):
        return
    native = handler.hook.style == "native"
    yield handler.finding(
        Severity.ERROR,
        "auth-no-token",
        handler.node,
        f"{handler.hook.name} authenticates callers, but never sets a token.",
        "The gateway takes nobody for authenticated: every request is refused with 403, Forbidden.",
        'Call session.allow("TOKEN") for a caller who may pass.'
        if native
        else 'Set metadata["token"] = "TOKEN" for a caller who may pass.',
    )


def _sets_token(function: Function) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            method = getattr(node.func, "attr", "")
            if method == "allow":
                return True
            if method == "setdefault" and node.args and text_of(node.args[0]) in ("token", None):
                return True
            if any(word.arg == "token" for word in node.keywords):
                return True
        elif isinstance(node, ast.Dict):
            if any(text_of(key) == "token" for key in node.keys):
                return True
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):  # noqa: SIM102 - reads better
            # A key that is not written out may be it.
            if text_of(node.slice) == "token" or not isinstance(node.slice, ast.Constant):
                return True
    return False
