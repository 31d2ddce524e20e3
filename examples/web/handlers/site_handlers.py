"""What the app's `before_request` family and context are at the level around it."""

from collections.abc import Iterator

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


@app.teardown(Response)
def done(state: State, visitors: list[str]) -> None:
    visitors.append(state.path)


@Pre
def refuse_attacks(request: Request) -> None:
    if ".." in request.path:
        raise Reject(400, "no such path")


@CustomKeyCheck
def check_token(request: Request, session: Session) -> None:
    if request.headers.get("Authorization") != current_app.config["token"]:
        raise Reject(401, "a token, please")
    session.allow("token-1", alias="ann", rate=100, per=1)


@Response
def count(response: Response, visitors: list[str]) -> None:
    response.headers["X-Visitors"] = str(len(visitors) + 1)
