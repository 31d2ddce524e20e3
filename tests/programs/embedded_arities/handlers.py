"""Handlers that take 3, 4 and 5 arguments, under every decorator."""

from tyk.decorators import *


@Hook
def Hook3(request, session, spec):
    request.add_header("X-Saw", "3 " + spec["APIID"])
    return request, session


@Hook
def Hook4(request, session, metadata, spec):
    request.add_header("X-Saw", "4 " + spec["APIID"])
    return request, session, metadata


@Hook
def Hook5(request, response, session, metadata, spec):
    response.headers["X-Saw"] = "5 " + spec["APIID"]
    response.raw_body = b"new"
    response.status_code = 201
    return response


@Pre
def Typed3(request, session, spec):
    request.add_header("X-Saw", "3 Pre")
    return request, session


@Post
def Typed3(request, session, spec):
    request.add_header("X-Saw", "3 Post")
    return request, session


@PostKeyAuth
def Typed3(request, session, spec):
    request.add_header("X-Saw", "3 PostKeyAuth")
    return request, session


@CustomKeyCheck
def Typed3(request, session, spec):
    request.add_header("X-Saw", "3 CustomKeyCheck")
    return request, session


@Pre
def Typed4(request, session, metadata, spec):
    request.add_header("X-Saw", "4 Pre")
    return request, session, metadata


@Post
def Typed4(request, session, metadata, spec):
    request.add_header("X-Saw", "4 Post")
    return request, session, metadata


@PostKeyAuth
def Typed4(request, session, metadata, spec):
    request.add_header("X-Saw", "4 PostKeyAuth")
    return request, session, metadata


@CustomKeyCheck
def Typed4(request, session, metadata, spec):
    request.add_header("X-Saw", "4 CustomKeyCheck")
    return request, session, metadata


@Pre
def Defaults(request, session, spec, attempts=3):
    request.add_header("X-Saw", str(attempts))
    return request, session
