from coprocess import Pre, Request


@Pre
def of_the_folder(request: Request) -> None:
    request.headers["X-Who"] = "the folder"
