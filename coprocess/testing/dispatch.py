"""The `dispatch` fixture."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from coprocess.api.body import body_bytes
from coprocess.desk.as_upstream import as_reply
from coprocess.desk.tyk.one_object import TYPES, object_of, received
from coprocess.desk.tyk.read_back import is_read
from coprocess.desk.tyk.simulator import RpcError
from coprocess.desk.tyk.simulator.apply import apply_request_edits
from coprocess.desk.tyk.simulator.headers import GoHeader
from coprocess.desk.tyk.simulator.objects import GatewayResponse
from coprocess.desk.tyk.simulator.request import GatewayRequest
from coprocess.desk.tyk.trial import InProcessDispatcher
from coprocess.desk.tyk.trial.changes import by_field, edits
from coprocess.desk.tyk.trial.dispatchers import HandlerRun
from coprocess.errors import HandlerFailed
from coprocess.gateways.tyk.event import format_go_time
from coprocess.gateways.tyk.wire import HookType, Object, ReturnOverrides, SessionState
from coprocess.testing.readable import DispatchedRequest, DispatchedResponse, HeaderArgument, wire_headers


class DispatchReply:
    """The Object as the handler, and then the reply guard, left it."""

    def __init__(self, sent: Object, message: Object, came: GatewayRequest) -> None:
        self.sent = sent
        self.message = message
        self._came = came

    @property
    def request(self) -> DispatchedRequest:
        """As it goes on, with the edits; a Response hook has none that count."""
        request = self._came.copy()
        if self.sent.hook_type != HookType.Response:
            apply_request_edits(self.message, request)
        return DispatchedRequest(self.message.request, request)

    @property
    def response(self) -> DispatchedResponse:
        return DispatchedResponse(self.message.response)

    @property
    def overrides(self) -> ReturnOverrides:
        """`response_code` is -1 where the handler lets the request pass."""
        return self.message.request.return_overrides

    @property
    def session(self) -> SessionState:
        return self.message.session

    @property
    def metadata(self) -> dict[str, str]:
        return dict(self.message.metadata)

    @property
    def changes(self) -> dict[str, Any]:
        """What the gateway takes over: `{"request.set_headers": {"X": "1"}}`; None is what went away."""
        return by_field([edit for edit in self._edits() if is_read(edit.path, self.sent.hook_type)])

    @property
    def ignored(self) -> dict[str, Any]:
        """What the handler edited, and the gateway does not look at."""
        return by_field([edit for edit in self._edits() if not is_read(edit.path, self.sent.hook_type)])

    def _edits(self) -> list[Any]:
        return edits(self.sent, self.message)

    def __repr__(self) -> str:
        return f"<DispatchReply {self.changes}>"


class Dispatch:
    """Calls one handler, as the gateway would call it, without a gateway."""

    def __init__(self, dispatcher: InProcessDispatcher) -> None:
        self._dispatcher = dispatcher

    def __call__(
        self,
        hook_type: str,
        name: str,
        *,
        method: str = "GET",
        url: str = "/",
        headers: HeaderArgument = (),
        body: str | bytes = b"",
        json: Any = None,
        session: SessionState | Mapping[str, Any] | None = None,
        response: Any = 200,
        config: Mapping[str, Any] | None = None,
        api_id: str = "test",
    ) -> DispatchReply:
        """Send one Object to the hook `name` of type `Pre`, `CustomKeyCheck`, `PostKeyAuth`, `Post` or
        `Response`.

        `session` has the fields of the protocol's SessionState, for hooks after authentication; `response`
        is the upstream's, for Response hooks: a status, `respond(...)` or a dict (JSON). `config` is the
        API's config data. Raises what the handler raises; HandlerFailed where its reply means nothing,
        UnknownHook where there is none of that name.
        """
        if hook_type == "Event":
            raise ValueError(
                "an event handler takes no request. Expected: "
                f'dispatch.event("{name}", "AuthFailure", meta={{}})'
            )
        if hook_type not in TYPES:
            raise ValueError(f"{hook_type!r} is no type of hook: expected one of {', '.join(TYPES)}")
        content = body_bytes(body) if json is None else json_module.dumps(json).encode()
        request = received(method, url, wire_headers(headers), content)
        caller = None
        if session is not None:
            caller = session if isinstance(session, SessionState) else _session_of(session)
        reply = as_reply(response)
        answer = GatewayResponse(reply.status, GoHeader.received(reply.headers), reply.body)
        sent = object_of(
            hook_type, name, request, session=caller, response=answer, config=config, api_id=api_id
        )
        run = self._run(lambda: self._dispatcher.dispatch(sent.SerializeToString()))
        assert run.guarded is not None  # noqa: S101 - a call that did not fail has a reply
        return DispatchReply(sent, run.guarded, request)

    def event(
        self,
        handler: str,
        type: str = "AuthFailure",
        *,
        meta: Mapping[str, Any] | None = None,
        api_id: str = "test",
    ) -> None:
        """Send an event to the `@Event` function `handler`. Raises what it raises, as above."""
        payload = {
            "message": {
                "Type": type,
                "Meta": dict(meta or {}),
                "TimeStamp": format_go_time(datetime.now(UTC)),
            },
            "handler_name": handler,
            "spec": {"APIID": api_id, "OrgID": "default"},
        }
        self._run(lambda: self._dispatcher.dispatch_event(json_module.dumps(payload)))

    def _run(self, call: Callable[[], object]) -> HandlerRun:
        runs = self._dispatcher.runs
        runs.clear()
        # What an RpcError stands for is raised below.
        with suppress(RpcError):
            call()
        run = runs[0]
        if run.error is not None:
            cause = run.error.__cause__
            # A HandlerFailed as cause says less than the error does.
            raise run.error if cause is None or isinstance(cause, HandlerFailed) else cause
        return run


def _session_of(fields: Mapping[str, Any]) -> SessionState:
    try:
        return SessionState(**fields)
    except TypeError:
        for name, value in fields.items():
            try:
                SessionState(**{name: value})
            except TypeError:
                text = f"session[{name!r}]: {type(value).__name__} is no value of this field"
                raise TypeError(text) from None
        raise
