from coprocess import Pre, Request
from helper import WHO


@Pre
def of_second(request: Request) -> None:
    import helper

    assert helper.WHO == WHO
    request.headers["X-Who"] = helper.WHO
