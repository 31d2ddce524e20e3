from coprocess import Pre, Request


@Pre
async def MyPreMiddleware(request: Request) -> None:
    request.headers["myheader"] = "myvalue"
