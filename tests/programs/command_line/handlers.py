"""Handlers to be called from the command line."""

import asyncio
import time

from gateway import TykGateway

import coprocess
from coprocess import CustomKeyCheck, Pre, Request, Response, Session, Spec, respond, store, trigger_event
from tyk.decorators import Hook


@Pre
def stamp(request: Request, spec: Spec) -> None:
    request.headers["X-Stamp"] = f"{spec.api_id} {spec.config.get('colour')} {request.headers.get('X-Given')}"
    request.query["n"] = str(len(request.body))


@Pre(name="stamp_async", api_id="only-this")
async def stamp_later(request: Request) -> None:
    await asyncio.sleep(0)
    request.headers["X-Stamp"] = "async"


@Pre
def idle() -> None:
    pass


@Pre
def stops():
    return respond(402, "Pay first")


@Pre
def fails() -> None:
    raise ValueError("the cause")


@Pre
def stores(request: Request) -> None:
    TykGateway.store_data("k", "from the store", 10)
    request.headers["X-Stored"] = store.get_text("k") or ""


@Pre
def triggers() -> None:
    trigger_event("on_something", '{"n": 1}')


@Pre
def slow(request: Request) -> None:
    print("slow has begun")
    time.sleep(1)
    request.headers["X-Slow"] = "done"


@CustomKeyCheck
def admit(session: Session) -> None:
    session.allow("tok", rate=5)


@Response
def less(response: coprocess.Response) -> None:
    response.status = 203
    response.body = response.text.upper()


@Hook
def Old(request, session, spec):
    request.add_header("X-Old", "1")
    return request, session
