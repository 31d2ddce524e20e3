"""Handlers around a WSGI app: `app = Middleware(app, "handlers")`."""

from coprocess.gateways.web import wsgi
from coprocess.process.web_host import WebHost

__all__ = ["Middleware"]


class Middleware(wsgi.Middleware):
    __doc__ = wsgi.Middleware.__doc__
    host_class = WebHost
