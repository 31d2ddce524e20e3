"""A toy gateway: its own wire format (JSON), its own method, and no other gateway's names.

A message is {"moment", "name", "api", "headers", "token"?} or {"event", "name", "api"}; the answer is
{"headers"} with what the request has become, {"status", "body"} to refuse it, or {}.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from coprocess.api.context import CallContext
from coprocess.api.http import MultiHeaders
from coprocess.api.messages import Event, Reject, Reply, Request, Session, Spec
from coprocess.api.moments import HookType
from coprocess.errors import BadMessage
from coprocess.loading.home import PARAMETERS, Home
from coprocess.loading.hooks import Hook, HookTable
from coprocess.runtime.call import Call
from coprocess.runtime.gateway import Gateway, Opener
from coprocess.runtime.registration import GatewayOptions, Registration

ASK = "/toy.Gateway/Ask"


class ToyView(Request, Session, Spec):
    def __init__(self, message: dict[str, Any]) -> None:
        self.headers_now, self.token = MultiHeaders(message.get("headers", {})), ""

    @property
    def headers(self) -> MultiHeaders:
        return self.headers_now

    def allow(self, token: str, **limits: Any) -> None:
        self.token = token


class ToyEvent(Event):
    type = property(lambda self: str(self.get("event", "")))
    meta = property(lambda self: dict(self))
    api_id = property(lambda self: str(self.get("api", "")))


class ToyCall(Call):
    """Its attributes are what handlers may ask for."""

    org_id = ""

    def __init__(self, hook: Hook, message: dict[str, Any]) -> None:
        self.hook = hook
        self.message, self.answer = message, dict[str, Any]()
        self.request = self.session = self.spec = ToyView(message)
        self.event = ToyEvent()
        self.event.update(message)

    @property
    def api_id(self) -> str:
        return str(self.message.get("api", ""))

    def reply(self, reply: Reply) -> None:
        self.answer = {"status": reply.status, "body": reply.body.decode()}

    def reject(self, reject: Reject) -> None:
        self.answer = {"status": reject.status, "body": reject.message}

    def finish(self) -> bytes:
        view = self.request
        return json.dumps(self.answer or {"headers": dict(view.headers), "token": view.token}).encode()

    def refused(self, status: int, message: str, headers: Iterable[tuple[str, str]] = ()) -> bytes:
        return json.dumps({"status": status, "body": message}).encode()


class ToyGateway(Gateway):
    name = "toy"

    def __init__(self, table: HookTable, options: GatewayOptions) -> None:
        self.table = table

    @property
    def methods(self) -> Mapping[str, Opener]:
        return {ASK: self.open_message}

    def open_message(self, payload: bytes) -> ToyCall:
        try:
            message = json.loads(payload)
            moment = HookType[message.get("moment", "Event")]
            name, api_id = str(message["name"]), str(message.get("api", ""))
        except (ValueError, KeyError, AttributeError):
            raise BadMessage("not a toy's message") from None
        return ToyCall(self.table.choose(moment, name, api_id), message)

    def open_local_event(self, name: str, payload: str, caller: CallContext | None) -> ToyCall:
        return self.open_message(json.dumps({"event": name, "name": name, "text": payload}).encode())


_ALL = ("request", "session", "spec", "state")
_HOME = Home("toy", parameters=dict.fromkeys(HookType, _ALL) | {HookType.Event: PARAMETERS[HookType.Event]})
TOY = Registration(_HOME, ToyGateway, services=("toy.Gateway",), methods=(ASK,))
