"""Apps with handlers around them, for servers that import them: Django by WSGI, FastAPI by ASGI."""

import os
from pathlib import Path

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path
from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse

import coprocess
from coprocess import App, CustomKeyCheck, Pre, Response
from coprocess.asgi import Middleware as Asgi
from coprocess.wsgi import Middleware as Wsgi

TOLD = Path(os.environ["WEB_TOLD"])

app = App()


def tell(text):
    with TOLD.open("a") as file:
        file.write(f"{text} {os.getpid()}\n")


@app.resource
def db():
    tell("open")
    yield {"pid": os.getpid()}
    tell("close")


@app.resource(scope="call")
async def tx(db):
    tell("begin")
    yield db
    tell("end")


@Pre
async def mark(request, tx):
    request.headers["X-Pid"] = str(tx["pid"])


@CustomKeyCheck
def check(request: coprocess.Request, session: coprocess.Session):
    session.allow(request.headers.get("Authorization", "nobody"), alias="ann")


@Response
def stamp(response, tx):
    response.headers["X-Pid"] = str(tx["pid"])


HANDLERS = [app, mark, check, stamp]


class Own:
    """A middleware of Django's own."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        response = self.get_response(request)
        response["X-Own"] = request.headers["X-Pid"]
        return response


def show(request):
    # As Django has it by WSGI, and by ASGI.
    user = request.scope["user"].display_name if hasattr(request, "scope") else request.environ["REMOTE_USER"]
    return HttpResponse(f"{user} {request.body.decode()}")


def stream(request):
    return StreamingHttpResponse(str(number) for number in range(3))


settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=[f"{__name__}.Own"],
    SECRET_KEY="for tests",  # noqa: S106 - it keeps nothing
)
django.setup()
urlpatterns = [path("show", show), path("stream", stream)]
site = Wsgi(get_wsgi_application(), HANDLERS)

api = FastAPI()


@api.get("/stream")
async def stream_numbers():
    async def numbers():
        for number in range(3):
            yield str(number)

    return StreamingResponse(numbers())


@api.websocket("/ws")
async def echo(socket: WebSocket):
    await socket.accept()
    await socket.send_text(f"{socket.scope['user'].display_name} {await socket.receive_text()}")
    await socket.close()


asgi = Asgi(api, HANDLERS)
django_asgi = Asgi(get_asgi_application(), HANDLERS)
