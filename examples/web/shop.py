"""A Flask app with middleware at every level that Flask knows, and the same once more around all of it.

python examples/web/shop.py        # then: curl -i -H 'Authorization: secret' http://127.0.0.1:5000/resource
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Flask, request
from flask.views import MethodView

from coprocess.wsgi import Middleware

site = Flask(__name__)
told: list[str] = []


def middleware(view: Callable[..., Any]) -> Callable[..., Any]:
    """Middleware of one view, as a decorator."""

    @functools.wraps(view)
    def wrapped(*args: Any, **options: Any) -> Any:
        told.append("decorator")
        return view(*args, **options)

    return wrapped


class Resource(MethodView):
    decorators = (middleware,)

    def get(self, number: int | None = None) -> str:
        return f"show for {request.environ['REMOTE_USER']}" if number else "index"

    def post(self) -> str:
        return "create"


resource = Resource.as_view("resource")
site.add_url_rule("/resource", view_func=resource, methods=["GET", "POST"])
site.add_url_rule("/resource/<int:number>", view_func=resource, methods=["GET"])


@site.before_request
def before_request() -> None:
    told.append("before_request")


@site.after_request
def after_request(response: Any) -> Any:
    told.append("after_request")
    return response


# The level around the app: Flask is not asked where a handler answers.
around = Middleware(
    site.wsgi_app,
    Path(__file__).parent / "handlers",
    app_config={"token": "secret", "greeting": "hello"},
)
site.wsgi_app = around  # type: ignore[method-assign]  # as Flask's own page has it

if __name__ == "__main__":
    site.run()
