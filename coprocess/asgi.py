"""Handlers around an ASGI app: `app = Middleware(app, "handlers")`."""

from coprocess.gateways.web.asgi import Middleware

__all__ = ["Middleware"]
