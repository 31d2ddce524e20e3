import second

from coprocess import Pre, Request


def name():
    return "first"


@Pre
def circle(request: Request) -> None:
    request.headers["X-Ran"] = second.name_of_first()
