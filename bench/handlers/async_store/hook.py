from coprocess import Pre, Request, store


@Pre
async def MyPreMiddleware(request: Request) -> None:
    await store.aio.set("bench", "myvalue", ttl_s=60)
    request.headers["myheader"] = await store.aio.get_text("bench") or ""
