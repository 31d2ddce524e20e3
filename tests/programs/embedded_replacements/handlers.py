"""Handlers that return a new object in place of the one that they got."""

from coprocess_mini_request_object_pb2 import MiniRequestObject
from coprocess_response_object_pb2 import ResponseObject
from coprocess_session_state_pb2 import SessionState
from tyk.decorators import *
from tyk.request import TykCoProcessRequest


@Pre
def NewMessage(request, session, spec):
    new = MiniRequestObject()
    new.set_headers["X-New"] = "1"
    return new, session


@Pre
def NewRequest(request, session, spec):
    new = TykCoProcessRequest(MiniRequestObject())
    new.add_header("X-New", "1")
    return new, session


@Pre
def NewBody(request, session, spec):
    return MiniRequestObject(body="new", url="/other", method="PUT"), session


@CustomKeyCheck
def NewSession(request, session, metadata, spec):
    return request, SessionState(rate=5, alias="new"), {"token": "t"}


@CustomKeyCheck
def NewSessionFirst(request, session, metadata, spec):
    return {"token": "t"}, SessionState(alias="new"), request


@CustomKeyCheck
def EmptySession(request, session, metadata, spec):
    return request, SessionState(), {"token": "t"}


@Hook
def NewResponse(request, response, session, metadata, spec):
    new = ResponseObject(status_code=202, body="new")
    new.headers["X-New"] = "1"
    return new
