"""Rules on edits that the gateway does not read back, or not as they are meant."""

from __future__ import annotations

from collections.abc import Iterator

from coprocess.api.moments import HookType
from coprocess.desk.findings import FileFinding, Severity
from coprocess.desk.tyk.doctor.source import Edit, Handler, number_of, text_of
from coprocess.desk.tyk.read_back import OF_AUTH, UNREAD_IN_REQUEST

_RAW = ("request", "object")
#: Fields of the request that the gateway does not read back → how to edit what they show.
_INSTEAD = {
    "headers": 'request.add_header("X-Name", "value"), or request.object.set_headers["X-Name"] = "value"',
    "params": 'request.add_param("name", "value"), or request.object.add_params["name"] = "value"',
    "extended_params": 'request.object.add_params["name"] = "value"',
    "request_uri": "request.object.url",
    "scheme": "nothing: the scheme is the client's",
}
_NATIVE_INSTEAD = {
    **_INSTEAD,
    "headers": 'request.headers["X-Name"] = "value"',
    "params": 'request.query["name"] = "value"',
    "extended_params": 'request.query["name"] = "value"',
    "request_uri": "request.path",
}


def check_edits(handler: Handler) -> Iterator[FileFinding]:
    """Every edit that is lost, or mended on its way."""
    for edit in handler.edits():
        if edit.target[0] == "request":
            if handler.types == {HookType.Response}:
                yield _in_response(handler, edit)
            else:
                yield from _request(handler, edit)
        elif edit.target[0] in OF_AUTH:
            yield from _session(handler, edit)
        elif edit.target == ("response", "body") and handler.hook.style == "embedded":
            yield _body(handler, edit, "response.raw_body")
        elif edit.target in (("response", "status_code"), ("response", "status")):
            yield from _response_status(handler, edit)


def _in_response(handler: Handler, edit: Edit) -> FileFinding:
    overrides = "return_overrides" in edit.target
    return handler.finding(
        Severity.ERROR,
        "handler-response-request-edit",
        edit.node,
        f"{handler.hook.name} is a Response handler and {'sets return_overrides' if overrides else 'edits'} "
        f"{'of ' if overrides else ''}the request.",
        "The gateway has sent the request already and ignores this: the client gets the response as it is.",
        "Edit the response: its status, headers and body.",
    )


def _request(handler: Handler, edit: Edit) -> Iterator[FileFinding]:
    name = edit.target[2] if len(edit.target) > 2 and edit.target[:2] == _RAW else ""
    instead = _NATIVE_INSTEAD if handler.hook.style == "native" else _INSTEAD
    if name == "body":
        yield _body(handler, edit, "request.object.raw_body")
    elif name in UNREAD_IN_REQUEST:
        yield handler.finding(
            Severity.ERROR,
            "handler-edit-ignored",
            edit.node,
            f"{handler.hook.name} edits request.object.{name}, which the gateway does not read back.",
            "The edit is lost, without an error: the upstream gets the request without it.",
            f"Use {instead[name]}.",
        )
    yield from _host(handler, edit)
    if edit.target in ((*_RAW, "url"), ("request", "url")) and edit.key is None:
        yield from _url(handler, edit)


def _body(handler: Handler, edit: Edit, better: str) -> FileFinding:
    return handler.finding(
        Severity.NOTE,
        "handler-body-edit",
        edit.node,
        f"{handler.hook.name} sets body, of which the gateway reads back only raw_body.",
        "This service mends it and sends the new body; the gateway's own Python driver, or another "
        "server, would lose it.",
        f"Set {better}, as bytes, to be safe everywhere.",
    )


def _host(handler: Handler, edit: Edit) -> Iterator[FileFinding]:
    sets = edit.target == (*_RAW, "set_headers") and not edit.method
    adds = edit.target == ("request",) and edit.method == "add_header"
    native = edit.target == ("request", "headers") and edit.value is not None
    if (sets or adds or native) and (edit.key_text or "").lower() == "host":
        yield handler.finding(
            Severity.ERROR,
            "handler-host-header",
            edit.node,
            f"{handler.hook.name} sets the Host header, which a handler cannot.",
            "The assignment raises an error, and the request is refused."
            if native
            else "The gateway ignores it and sends its own Host to the upstream.",
            "Set the upstream's host in the API definition: target_url, and preserve_host_header.",
        )


def _url(handler: Handler, edit: Edit) -> Iterator[FileFinding]:
    url = text_of(edit.value)
    if url is None:
        return
    if not url.startswith("/") and "://" not in url:
        what = "an empty URL" if not url else f'the URL "{url}", which does not begin with a slash'
        yield handler.finding(
            Severity.WARNING if not url else Severity.ERROR,
            "handler-url",
            edit.node,
            f"{handler.hook.name} sets {what}.",
            "It is refused: the client gets 500, Middleware error."
            if url
            else "This service keeps the URL as it was; the gateway itself would answer 500.",
            "Begin it with a slash.",
        )
    elif "?" in url:
        yield handler.finding(
            Severity.WARNING,
            "handler-url",
            edit.node,
            f"{handler.hook.name} sets a URL with a query in it.",
            "The gateway takes the path only: the query stays as the client sent it.",
            "Edit the query by add_param and delete_param, or request.query.",
        )


def _session(handler: Handler, edit: Edit) -> Iterator[FileFinding]:
    if not handler.types or HookType.CustomKeyCheck in handler.types:
        return
    moments = ", ".join(sorted(moment.name for moment in handler.types))
    yield handler.finding(
        Severity.WARNING,
        "handler-session-edit",
        edit.node,
        f"{handler.hook.name} edits the {edit.target[0]}, but runs at {moments}.",
        "The gateway reads the session back from the auth hook only: the edit is gone when the handler ends.",
        "Edit the session in a CustomKeyCheck handler; to tell a later hook something, set a request header.",
    )


def _response_status(handler: Handler, edit: Edit) -> Iterator[FileFinding]:
    status = number_of(edit.value)
    if status is None or 200 <= status <= 999:
        return
    yield handler.finding(
        Severity.ERROR,
        "handler-override-status",
        edit.node,
        f"{handler.hook.name} sets the response's status to {status}, which ends no response.",
        "This service keeps the status as it was; the gateway itself would drop the connection."
        if status == 0 and handler.hook.style == "embedded"
        else "The handler fails: the client gets 500, Middleware error.",
        "Set a status from 200 to 999.",
    )
