import time

from coprocess import Pre, Request


@Pre
def MyPreMiddleware(request: Request) -> None:
    # 5 ms of CPU time, whatever the machine.
    until_s = time.thread_time() + 0.005
    while time.thread_time() < until_s:
        pass
    request.headers["myheader"] = "myvalue"


@Pre
def Quick(request: Request) -> None:
    request.headers["myheader"] = "myvalue"
