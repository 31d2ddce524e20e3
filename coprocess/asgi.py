"""Handlers around an ASGI app: `app = Middleware(app, "handlers")`."""

from coprocess.gateways.web import asgi
from coprocess.process.web_host import WebHost

__all__ = ["Middleware"]


class Middleware(asgi.Middleware):
    __doc__ = asgi.Middleware.__doc__
    host_class = WebHost
