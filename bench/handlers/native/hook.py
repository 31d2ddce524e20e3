from coprocess import Pre, Request


@Pre
def MyPreMiddleware(request: Request) -> None:
    request.headers["myheader"] = "myvalue"
