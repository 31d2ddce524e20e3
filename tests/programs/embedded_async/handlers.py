"""Embedded style, on the event loop."""

import asyncio

from tyk.decorators import *


@Pre
async def AsyncPre(request, session, spec):
    await asyncio.sleep(0)
    request.add_header("X-Async", "1")
    return request, session


@Hook
async def AsyncHook(request, session, metadata, spec):
    await asyncio.sleep(0)
    metadata["token"] = "t"
    return request, session, metadata


@Event
async def AsyncEvent(event, spec):
    await asyncio.sleep(0)
    seen.append((event["EventType"], spec["APIID"]))


seen = []
