"""What the Go processor does: one header."""

from coprocess import CustomKeyCheck, Post, Request, Response, Session


@Post
def stamp(request: Request) -> None:
    request.headers["X-Bench"] = "1"


@CustomKeyCheck
def check(request: Request, session: Session) -> None:
    request.headers["X-Bench"] = "1"
    session.allow("token")


@Response
def look(response: Response) -> None:
    pass


@Post
def longer(request: Request) -> None:
    request.body = request.raw_body + b"!"
