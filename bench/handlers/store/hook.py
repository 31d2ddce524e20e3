from coprocess import Pre, Request, store


@Pre
def MyPreMiddleware(request: Request) -> None:
    store.set("bench", "myvalue", ttl_s=60)
    request.headers["myheader"] = store.get_text("bench") or ""
