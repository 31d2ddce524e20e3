import asyncio

from coprocess import Pre, Request


@Pre
async def MyPreMiddleware(request: Request) -> None:
    await asyncio.sleep(0.05)
    request.headers["myheader"] = "myvalue"
