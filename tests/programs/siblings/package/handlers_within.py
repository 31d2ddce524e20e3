from coprocess import Pre, Request


@Pre
def within(request: Request) -> None:
    request.headers["X-Ran"] = "within"
