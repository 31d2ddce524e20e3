"""A plugin that brings its own generated message classes."""

import own_messages
from tyk.decorators import *


@Pre
def OwnRequest(request, session, spec):
    new = own_messages.MiniRequestObject()
    new.ParseFromString(request.object.SerializeToString())
    new.set_headers["X-Own"] = "1"
    return new, session


@CustomKeyCheck
def OwnSession(request, session, metadata, spec):
    return request, own_messages.SessionState(alias="own"), {"token": "t"}


@Hook
def OwnResponse(request, response, session, metadata, spec):
    return own_messages.ResponseObject(status_code=203, raw_body=b"own")
