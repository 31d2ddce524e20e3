"""Handlers around a WSGI app: `app = Middleware(app, "handlers")`."""

from coprocess.gateways.web.wsgi import Middleware

__all__ = ["Middleware"]
