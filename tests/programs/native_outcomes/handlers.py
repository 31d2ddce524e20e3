"""How native handlers end."""

from coprocess import CustomKeyCheck, Pre, Reject, Request, Response, Session, respond


@Pre
def keeps_edits(request: Request) -> None:
    request.headers["X-Edited"] = "1"
    request.query["q"] = "1"
    request.body = "new"


@Pre
def returns_what_it_got(request: Request):
    request.headers["X-Edited"] = "1"
    return request


@Pre
def returns_a_tuple(request: Request, session: Session):
    request.headers["X-Edited"] = "1"
    return request, session


@Pre
def responds(request: Request):
    request.headers["X-Edited"] = "1"
    return respond(403, "no", headers={"X-Why": "because"})


@Pre
def rejects(request: Request) -> None:
    raise Reject(401, "No token", headers={"WWW-Authenticate": "Bearer"})


@CustomKeyCheck
def allows(session: Session) -> None:
    session.allow("tok", rate=5, per=2, alias="someone")


@Response
def responds_anew(response: Response):
    return respond(404, json={"gone": True})


@Response
def rejects_late(response: Response) -> None:
    raise Reject(502, "Bad upstream")


@Pre
def returns_a_number():
    return 42


@Pre
def returns_an_error():
    return Reject(401, "not raised")


@Pre
def fails():
    raise ValueError("secret detail")


@Pre
def exits():
    raise SystemExit(3)


@Pre
def returns_a_coroutine():
    async def late():
        pass

    return late()


@Pre
async def async_keeps_edits(request: Request) -> None:
    request.headers["X-Edited"] = "async"


@Pre
async def async_responds():
    return respond(204)


@Pre
async def async_rejects() -> None:
    raise Reject(429, "Slow down")
