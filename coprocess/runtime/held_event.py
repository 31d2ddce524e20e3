"""Events of handlers, for gateways that send none: in the form in which others send theirs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from coprocess.api.http import RawRequest
from coprocess.api.messages import Constructed, Event, Reject, Reply
from coprocess.errors import HandlerFailed
from coprocess.loading.hooks import Hook
from coprocess.runtime.call import Call
from coprocess.runtime.held_spec import HeldSpec


class HeldEvent(Event, metaclass=Constructed):
    """message{Type, Meta, TimeStamp}, handler_name, spec{APIID, OrgID}: as a dict, and by properties."""

    @property
    def _message(self) -> dict[str, Any]:
        message = self.get("message")
        return message if isinstance(message, dict) else {}

    @property
    def type(self) -> str:
        return str(self._message.get("Type") or "")

    @property
    def meta(self) -> dict[str, Any]:
        meta = self._message.get("Meta")
        return meta if isinstance(meta, dict) else {}

    @property
    def timestamp(self) -> datetime | None:
        text = str(self._message.get("TimeStamp") or "").removesuffix(" +0000 UTC")
        try:
            return datetime.fromisoformat(text[:26]).replace(tzinfo=UTC)
        except ValueError:
            return None

    @property
    def originating_request(self) -> RawRequest | None:
        return None

    @property
    def api_id(self) -> str:
        return str(self._spec.get("APIID", ""))

    @property
    def org_id(self) -> str:
        return str(self._spec.get("OrgID", ""))

    @property
    def handler(self) -> str:
        return str(self.get("handler_name") or "")

    @property
    def _spec(self) -> dict[str, Any]:
        spec = self.get("spec")
        return spec if isinstance(spec, dict) else {}

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the event has no {name!r}") from None


def event_of(name: str, payload: str, spec: HeldSpec) -> HeldEvent:
    """The event `name`, for the function of that name.

    `payload` may be the event's Meta as JSON, the whole in the gateway's form, or plain text.
    """
    try:
        content = json.loads(payload)
    except (ValueError, RecursionError):
        content = {"Message": payload}
    head = {"handler_name": name, "spec": {"APIID": spec.api_id, "OrgID": spec.org_id}}
    if isinstance(content, dict) and isinstance(content.get("message"), dict):
        return _event({**content, **head})
    meta = content if isinstance(content, dict) else {"Message": payload}
    return _event({"message": message_of(name, meta), **head})


def _event(content: dict[str, Any]) -> HeldEvent:
    event = HeldEvent()
    event.update(content)
    return event


def message_of(event_type: str, meta: dict[str, Any]) -> dict[str, Any]:
    """What happened, now, in the form of a gateway's event."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f000 +0000 UTC")
    return {"Type": event_type, "Meta": meta, "TimeStamp": now}


class HeldEventCall(Call):
    """A call of an `@Event` function. Nothing is read back from it."""

    __slots__ = ("event", "spec")

    def __init__(self, hook: Hook, event: HeldEvent, spec: HeldSpec) -> None:
        self.hook = hook
        self.event = event
        self.spec = spec

    @property
    def api_id(self) -> str:
        return self.spec.api_id

    @property
    def org_id(self) -> str:
        return self.spec.org_id

    @property
    def event_sink(self) -> Any:
        return self.spec.event_sink

    def reply(self, reply: Reply) -> None:
        raise HandlerFailed("responded to an event: nobody waits for it")

    def reject(self, reject: Reject) -> None:
        raise HandlerFailed("rejected an event: nobody waits for it") from reject

    def finish(self) -> bytes:
        return b""
