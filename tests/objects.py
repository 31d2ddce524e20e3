"""Objects as a gateway sends them, and tables of handlers, for tests."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coprocess.api.declarations import collecting
from coprocess.api.moments import HookType
from coprocess.gateways.tyk.call import TykCall
from coprocess.gateways.tyk.dispatcher import Dispatcher
from coprocess.gateways.tyk.wire import (
    MiniRequestObject,
    Object,
    ResponseObject,
    ReturnOverrides,
    SessionState,
)
from coprocess.loading.declared import hooks_of
from coprocess.loading.hooks import HookTable
from coprocess.runtime.call import Call

RECORDINGS = Path(__file__).parent / "data" / "recordings"
APIS = Path(__file__).parent / "data" / "apis"

#: md5 of the empty string: what a gateway sends where there is no bundle.
NO_BUNDLE = "d41d8cd98f00b204e9800998ecf8427e"

#: Field 2047, length-delimited: what a gateway that is newer than this protocol might send.
UNKNOWN_FIELD = b"\xfa\x7f\x06future"


def text_of(body: bytes) -> str:
    """What a gateway puts in `body` beside `raw_body`: nothing where the bytes are no text."""
    try:
        return body.decode()
    except UnicodeDecodeError:
        return ""


def make_request(
    url: str = "/keyless/a",
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    params: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> MiniRequestObject:
    return MiniRequestObject(
        headers={"Host": "127.0.0.1:8081", **(headers or {})},
        body=text_of(body),
        raw_body=body,
        url=url,
        params=params or {},
        return_overrides=ReturnOverrides(response_code=-1),
        method=method,
        request_uri=url,
        scheme="http",
    )


def make_response(
    status: int = 200,
    body: bytes = b'{"ok":true}',
    headers: Iterable[tuple[str, str]] = (("Content-Type", "application/json"),),
) -> ResponseObject:
    """Both forms of the headers, as the gateway writes them: the map has the first value of each."""
    values: dict[str, list[str]] = {}
    for name, value in headers:
        values.setdefault(name, []).append(value)
    message = ResponseObject(status_code=status, raw_body=body, body=text_of(body))
    for name, all_values in values.items():
        message.headers[name] = all_values[0]
        message.multivalue_headers.add(key=name, values=all_values)
    return message


def make_object(
    hook_type: HookType = HookType.Pre,
    hook_name: str = "hook",
    *,
    request: MiniRequestObject | None = None,
    response: ResponseObject | None = None,
    session: SessionState | None = None,
    metadata: Mapping[str, str] | None = None,
    api_id: str = "api",
    spec: Mapping[str, str] | None = None,
) -> Object:
    """An Object as the gateway sends it to a hook of this type; a Response hook's has a response."""
    message = Object(
        hook_type=int(hook_type),  # type: ignore[arg-type]  # the enum's numbers are the protocol's
        hook_name=hook_name,
        request=request if request is not None else make_request(),
        metadata=metadata or {},
        spec={"APIID": api_id, "OrgID": "default", "bundle_hash": NO_BUNDLE, **(spec or {})},
    )
    if session is not None:
        message.session.CopyFrom(session)
    if hook_type is HookType.Response:
        message.response.CopyFrom(response if response is not None else make_response())
    return message


def make_payload(
    event_type: str = "AuthFailure",
    handler: str = "my_handler",
    *,
    meta: Mapping[str, Any] | None = None,
    api_id: str = "api",
) -> dict[str, Any]:
    """The payload of a DispatchEvent, before it is JSON."""
    raw = b"GET /protected/a HTTP/1.1\r\nHost: 127.0.0.1:8081\r\nAuthorization: bad\r\n\r\n"
    return {
        "message": {
            "Type": event_type,
            "Meta": {
                "Message": "Auth Failure",
                "OriginatingRequest": base64.b64encode(raw).decode(),
                "Path": "/protected/a",
                "Origin": "127.0.0.1",
                "Key": "",
                **(meta or {}),
            },
            "TimeStamp": "2026-11-21 08:21:19.881174117 +0000 UTC",
        },
        "handler_name": handler,
        "spec": {"APIID": api_id, "OrgID": "default"},
    }


def event_json(**changes: Any) -> str:
    return json.dumps(make_payload(**changes))


def table_of(declare: Callable[[], object]) -> HookTable:
    """A table of what the decorators within `declare` declare."""
    with collecting() as declarations:
        declare()
    return HookTable(hook for declaration in declarations for hook in hooks_of(declaration))


def hook_table(
    hook_type: HookType, function: Callable[..., Any], *, name: str = "hook", **options: Any
) -> HookTable:
    """A table with one native handler."""
    from coprocess import CustomKeyCheck, Event, Post, PostKeyAuth, Pre, Response

    decorators: dict[HookType, Any] = {
        HookType.Pre: Pre,
        HookType.Post: Post,
        HookType.PostKeyAuth: PostKeyAuth,
        HookType.CustomKeyCheck: CustomKeyCheck,
        HookType.Response: Response,
        HookType.Event: Event,
    }
    return table_of(lambda: decorators[hook_type](name=name, **options)(function))


def open_call(
    function: Callable[..., Any], message: Object | None = None, *, full_reply: bool = True
) -> TykCall:
    """A call of `function`, as a native handler, with `message`; its hook is named as the message says."""
    message = make_object() if message is None else message
    table = hook_table(HookType(message.hook_type), function, name=message.hook_name)
    return Dispatcher(table, full_reply=full_reply).open_dispatch(message.SerializeToString())


def run_sync(call: Call) -> bytes:
    """The reply of a call of a sync handler, in a context of its own, as a service runs it."""
    return copy_context().run(call.run)


def answer(function: Callable[..., Any], message: Object | None = None, *, full_reply: bool = True) -> Object:
    """The reply to `message` of the native handler `function`. Raises HandlerFailed where it fails."""
    return Object.FromString(run_sync(open_call(function, message, full_reply=full_reply)))


@dataclass(frozen=True)
class RecordedDispatch:
    """One Dispatch of a recording."""

    recording: str
    index: int
    sent: bytes
    #: None where the recorded RPC failed.
    reply: bytes | None

    def __str__(self) -> str:
        return f"{self.recording}-{self.index}"


def recorded_dispatches() -> list[RecordedDispatch]:
    found = []
    for path in sorted(RECORDINGS.glob("*.json")):
        for index, call in enumerate(json.loads(path.read_text(encoding="utf-8"))["dispatches"]):
            reply = None if call["reply"] is None else base64.b64decode(call["reply"])
            found.append(RecordedDispatch(path.stem, index, base64.b64decode(call["object"]), reply))
    return found
