"""Handlers under, over and between other decorators, and handlers that are no functions."""

import asyncio
import functools

from coprocess import CustomKeyCheck, Event, Post, Pre, Request, Response


def marked(function):
    """A decorator as everybody writes one."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        args[0].headers["X-Marked"] = str(int(args[0].headers.get("X-Marked", "0")) + 1)
        return function(*args, **kwargs)

    return wrapper


def marked_async(function):
    @functools.wraps(function)
    async def wrapper(*args, **kwargs):
        args[0].headers["X-Marked"] = "async"
        return await function(*args, **kwargs)

    return wrapper


class Marked:
    """A decorator that is a class."""

    def __init__(self, function):
        functools.update_wrapper(self, function)
        self.function = function

    def __call__(self, *args):
        args[0].headers["X-Marked"] = "class"
        return self.function(*args)


def marked_plainly(function):
    """A decorator that forgets functools.wraps, but has the handler's parameters."""

    def wrapper(request):
        request.headers["X-Marked"] = "plain"
        return function(request)

    return wrapper


@Pre
@marked
def above(request: Request) -> None:
    request.headers["X-Ran"] = "above"


@marked
@Pre
def below(request: Request) -> None:
    request.headers["X-Ran"] = "below"


@marked
@Pre
@marked
def between(request: Request) -> None:
    request.headers["X-Ran"] = "between"


@Marked
@Pre
def under_a_class(request: Request) -> None:
    request.headers["X-Ran"] = "under_a_class"


@marked_plainly
@Pre
def under_a_plain_one(request: Request) -> None:
    request.headers["X-Ran"] = "under_a_plain_one"


@Pre
@marked
async def sync_over_async(request: Request) -> None:
    await asyncio.sleep(0)
    request.headers["X-Ran"] = "sync_over_async"


@marked_async
@Pre
async def async_over_async(request: Request) -> None:
    request.headers["X-Ran"] = "async_over_async"


@Pre
@Post(name="stacked_post", api_id="special")
@CustomKeyCheck(name="stacked_check")
def stacked(request: Request) -> None:
    request.headers["X-Ran"] = "stacked"


@Pre(name="named", api_id="only-this", timeout=2.5, concurrency=3, on_error="open")
def not_this_name() -> None:
    pass


@Response(name="response_named")
def some_response(response: Response) -> None:
    response.headers["X-Ran"] = "response_named"


@Event(name="event_named")
def some_event(event: Event) -> None:
    pass


class Stamp:
    def __init__(self, value):
        self.value = value

    def __call__(self, request: Request) -> None:
        request.headers["X-Ran"] = self.value


class SlottedStamp:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value

    def __call__(self, request: Request) -> None:
        request.headers["X-Ran"] = self.value


class AsyncStamp:
    async def __call__(self, request: Request) -> None:
        await asyncio.sleep(0)
        request.headers["X-Ran"] = "async instance"


Pre(name="instance")(Stamp("instance"))
Pre(name="slotted")(SlottedStamp("slotted"))
Pre(name="async_instance")(AsyncStamp())


def stamp(prefix, request, suffix="!"):
    request.headers["X-Ran"] = prefix + suffix


async def async_stamp(prefix, request):
    request.headers["X-Ran"] = prefix


Pre(name="partial")(functools.partial(stamp, "partial"))
Pre(name="partial_keyword")(functools.partial(stamp, "partial", suffix="?"))
Pre(name="async_partial")(functools.partial(async_stamp, "async partial"))


class Service:
    def __init__(self):
        self.name = "method"

    def handle(self, request):
        request.headers["X-Ran"] = self.name

    @Pre(name="static")
    @staticmethod
    def static(request):
        request.headers["X-Ran"] = "static"


Pre(name="method")(Service().handle)

for _number in range(2):
    Pre(name=f"made_{_number}")(
        lambda request, number=_number: request.headers.update({"X-Ran": str(number)})
    )
