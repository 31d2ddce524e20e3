"""What decorators of views, the `before_request` family and the contexts are at the level around the app."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

from coprocess import App, CustomKeyCheck, Pre, Reject, Request, Response, Session, State, current_app, g

app = App()


@app.resource
def visitors() -> Iterator[list[str]]:
    """What lives as long as the app: a pool of connections, say."""
    seen: list[str] = []
    yield seen
    seen.clear()


@app.before(Pre)
def remember_path(request: Request) -> None:
    g.path = request.path


@app.after(Response)
def stamp(response: Response) -> None:
    response.headers["X-Greeting"] = f"{current_app.config['greeting']} from {g.path}"
    response.headers["X-Handlers"] = " ".join(g.handlers)


@app.teardown
def done(error: BaseException | None, state: State, visitors: list[str]) -> None:
    """`error` is what failed, as in `teardown_request`; None: nothing did."""
    if error is not None and visitors and visitors[-1] == state.get("path"):
        visitors.pop()


def logged(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Middleware of one handler, as a decorator: the twin of `decorators` of a MethodView."""

    @functools.wraps(handler)
    def wrapped(*args: Any, **options: Any) -> Any:
        g.setdefault("handlers", []).append(handler.__name__)
        return handler(*args, **options)

    return wrapped


@Pre
@logged
def refuse_attacks(request: Request) -> None:
    if ".." in request.path:
        raise Reject(400, "no such path")


@CustomKeyCheck
def check_token(request: Request, session: Session) -> None:
    if request.headers.get("Authorization") != current_app.config["token"]:
        raise Reject(401, "a token, please")
    session.allow("token-1", alias="ann", rate=100, per=1)


@Response
@logged
def count(response: Response, visitors: list[str]) -> None:
    visitors.append(g.path)
    response.headers["X-Visitors"] = str(len(visitors))
