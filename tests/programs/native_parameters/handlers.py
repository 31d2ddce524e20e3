"""Handlers that ask for what they need, in any order."""

from __future__ import annotations

from typing import Any

from coprocess import CustomKeyCheck, Event, Post, PostKeyAuth, Pre, Request, Response, Session
from coprocess import Spec as ApiSpec


@Pre
def nothing() -> None:
    calls.append("nothing")


@Pre
def only_request(request: Request) -> None:
    request.headers["X-Saw"] = request.path


@Pre
def only_spec(spec: ApiSpec) -> None:
    calls.append(spec.api_id)


@CustomKeyCheck
def reversed_order(spec, metadata, session, request):
    request.headers["X-Saw"] = f"{spec.org_id} {len(metadata)} {bool(session)}"


@PostKeyAuth
def some(session: Session, request: Request) -> None:
    request.headers["X-Saw"] = session.alias


@Post
def positional_only(request, /, session):
    request.headers["X-Saw"] = session.alias


@Pre
def with_a_default(request: Request, prefix: str = "p") -> None:
    request.headers["X-Saw"] = prefix


@Response
def on_response(response: Response, request: Request) -> None:
    response.headers["X-Saw"] = request.method


@Event
def on_event(event: Event) -> None:
    calls.append(event.type)


@Event
def on_event_with_spec(spec, event):
    calls.append((spec.api_id, event.type))


@Event
def on_event_with_nothing():
    calls.append("event")


calls: list[Any] = []
