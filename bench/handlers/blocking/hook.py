import time

from coprocess import Pre, Request


@Pre
def MyPreMiddleware(request: Request) -> None:
    time.sleep(0.05)
    request.headers["myheader"] = "myvalue"


@Pre
def Fast(request: Request) -> None:
    request.headers["myheader"] = "myvalue"
