"""Handlers that run on Tyk, Kong and around a web app as they do in Envoy."""

import hmac

from coprocess import CustomKeyCheck, Post, Reject, Request, Response, Session, Spec


@CustomKeyCheck
def authenticate(request: Request, session: Session, spec: Spec) -> None:
    """Let in whoever shows one of the keys of the route: `x-coprocess-config`."""
    key = request.headers.get("Authorization", "")
    for caller, expected in spec.config.get("keys", {}).items():
        if hmac.compare_digest(key.encode(), expected.encode()):
            session.allow(f"shop-{caller}", alias=caller)
            return
    raise Reject(401, "No valid key")


@Post
def sign(request: Request) -> None:
    """Tell the upstream how long the body is that was seen here: a handler that reads it."""
    request.headers["X-Body-Bytes"] = str(len(request.raw_body))


@Response
def stamp(response: Response) -> None:
    """Tell the client who was here."""
    response.headers["X-Served-By"] = "shop"
