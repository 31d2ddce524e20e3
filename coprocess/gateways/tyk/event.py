"""`Event` over the JSON payload of DispatchEvent."""

from __future__ import annotations

import base64
import binascii
import json
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from coprocess.api.http import RawRequest, parse_raw_request
from coprocess.api.messages import Constructed, Event
from coprocess.errors import BadMessage

# The spelling of a README of 2016, for samples that were written after it.
_OLD_SPELLING = {"EventType": "Type", "EventMetaData": "Meta", "TimeStamp": "TimeStamp"}

# 2026-11-21 08:21:19.881174117 +0000 UTC: Go's time as text; a process's own clock may follow.
_GO_TIME = re.compile(
    r"(?P<time>\d{4,}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.(?P<fraction>\d+))? "
    r"(?P<sign>[+-])(?P<hours>\d\d)(?P<minutes>\d\d)\b"
)


class TykEvent(Event, metaclass=Constructed):
    """The payload: message{Type, Meta, TimeStamp}, handler_name, spec{APIID, OrgID}.

    `EventType`, `EventMetaData` and `TimeStamp` are found too, as keys and as attributes.
    """

    def __missing__(self, key: str) -> Any:
        message = dict.get(self, "message")
        if key in _OLD_SPELLING and isinstance(message, dict) and _OLD_SPELLING[key] in message:
            return message[_OLD_SPELLING[key]]
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return dict.__contains__(self, key) or (key in _OLD_SPELLING and self.get(str(key)) is not None)

    def get(self, key: str, default: Any = None) -> Any:
        try:
            return self[key]
        except KeyError:
            return default

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the event has no {name!r}") from None

    @property
    def type(self) -> str:
        return str(self.get("EventType") or "")

    @property
    def meta(self) -> dict[str, Any]:
        meta = self.get("EventMetaData")
        return meta if isinstance(meta, dict) else {}

    @property
    def timestamp(self) -> datetime | None:
        return parse_go_time(str(self.get("TimeStamp") or ""))

    @property
    def originating_request(self) -> RawRequest | None:
        text = self.meta.get("OriginatingRequest")
        if not text:
            return None
        try:
            raw = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise BadMessage("the event's OriginatingRequest is not base64") from None
        return parse_raw_request(raw)

    @property
    def api_id(self) -> str:
        return self.spec_texts.get("APIID", "")

    @property
    def org_id(self) -> str:
        return self.spec_texts.get("OrgID", "")

    @property
    def handler(self) -> str:
        return str(self.get("handler_name") or "")

    @property
    def spec_texts(self) -> dict[str, str]:
        """The payload's spec as an Object has it: every value is text."""
        return {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in self._spec.items()
            if value is not None
        }

    @property
    def _spec(self) -> dict[str, Any]:
        spec = self.get("spec")
        return spec if isinstance(spec, dict) else {}


def parse_event(payload: str) -> TykEvent:
    """The event of a DispatchEvent. Raises BadMessage where the payload is none."""
    try:
        content = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"the event's payload is not JSON: {type(error).__name__}") from None
    if not isinstance(content, dict):
        raise BadMessage(f"the event's payload is a JSON object, not {type(content).__name__}")
    event = TykEvent()
    event.update(content)
    if not isinstance(content.get("handler_name"), str) or not content["handler_name"]:
        raise BadMessage("the event's payload has no handler_name: expected the name of a function")
    for name in ("message", "spec"):
        if not isinstance(content.get(name, {}), dict):
            raise BadMessage(f"the event's {name} is a JSON object, not {type(content[name]).__name__}")
    return event


def local_event_payload(name: str, payload: str, spec: dict[str, str], now: datetime) -> str:
    """The payload of an event that a handler triggers, in the gateway's form.

    `payload` may be the event's Meta as JSON, the whole in the gateway's form, or plain text.
    """
    try:
        content = json.loads(payload)
    except (ValueError, RecursionError):
        content = {"Message": payload}
    if isinstance(content, dict) and isinstance(content.get("message"), dict):
        return json.dumps({"spec": spec, **content, "handler_name": name})
    meta = content if isinstance(content, dict) else {"Message": payload}
    message = {"Type": name, "Meta": meta, "TimeStamp": format_go_time(now)}
    return json.dumps({"message": message, "handler_name": name, "spec": spec})


def format_go_time(moment: datetime) -> str:
    """`moment`, which knows its zone, as Go writes a time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f000 +0000 UTC")


def parse_go_time(text: str) -> datetime | None:
    """A time as Go writes it, to the microsecond; None where `text` is none."""
    if (found := _GO_TIME.match(text)) is None:
        return None
    offset = timedelta(hours=int(found["hours"]), minutes=int(found["minutes"]))
    try:
        moment = datetime.strptime(found["time"], "%Y-%m-%d %H:%M:%S")
        zone = timezone(-offset if found["sign"] == "-" else offset)
    except ValueError:
        return None
    microseconds = int((found["fraction"] or "0")[:6].ljust(6, "0"))
    return moment.replace(microsecond=microseconds, tzinfo=zone)
