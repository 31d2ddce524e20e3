"""Handlers that print and log."""

import asyncio
import logging
import sys

import structlog

from coprocess import Event, Pre, Request

logger = logging.getLogger("mine")


@Pre
def prints(request: Request) -> None:
    print("one", 2, sep="-", end="")
    print("!")
    print("first\nsecond")
    print("to stderr", file=sys.stderr)
    sys.stdout.writelines(["three ", "four\n"])


@Pre
def prints_no_end(request: Request) -> None:
    print("unfinished", end="")


@Pre
def logs(request: Request) -> None:
    logger.warning("logged %s", "text", extra={"amount": 5})
    structlog.get_logger("theirs").info("structured", user="u")


@Pre
async def prints_async(request: Request) -> None:
    who = request.headers["X-Who"]
    print(f"before {who}", end=" ")
    await asyncio.sleep(0.01)
    print(f"after {who}")


@Pre
def fails(request: Request) -> None:
    raise ValueError("secret\ndetail ü")


@Pre
def fails_while_logging(request: Request) -> None:
    try:
        {}["absent"]
    except KeyError:
        logger.exception("kept going")


@Event
def on_event(event) -> None:
    print("an event")
