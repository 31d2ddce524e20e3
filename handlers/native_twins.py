"""The samples beside this file, in the native style."""

import hmac

from coprocess import CustomKeyCheck, Post, Pre, Reject, Request, Session, store

VALID_TOKEN = "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d"


@Pre
def append_header(request: Request) -> None:
    request.headers["custom_header"] = "custom_value"


@Pre
def set_key_on_request() -> None:
    store.set("my_key", "expiring_soon", ttl_s=15)
    store.get("cool_key")


@Pre
@Post
def announce() -> None:
    print("native_twins: announce")


@CustomKeyCheck
def auth_check(request: Request, session: Session) -> None:
    token = request.headers.get("Authorization", "")
    if not hmac.compare_digest(token.encode(), VALID_TOKEN.encode()):
        raise Reject(401, "Not authorized (Python middleware)")
    session.allow("mytoken", rate=1000)
