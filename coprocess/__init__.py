"""API-gateway middleware as plain Python functions.

Handlers import what they need from here:

    from coprocess import Pre, Request

    @Pre
    def stamp(request: Request) -> None:
        request.headers["X-Stamp"] = "1"
"""

# Before all else is imported, which takes a moment.
import coprocess.early_signals
import coprocess.lean_start  # noqa: F401 - as above

# isort: split
from coprocess.api.app import App
from coprocess.api.context import trigger_event
from coprocess.api.decorators import CustomKeyCheck, Post, PostKeyAuth, Pre
from coprocess.api.http import Headers, Query
from coprocess.api.messages import Event, Reject, Reply, Request, Response, Session, Spec, respond
from coprocess.api.state import State, current_app, g
from coprocess.errors import BadBody, CoprocessError, StoreError
from coprocess.store import store

__version__ = "0.1.0"

__all__ = [
    "App",
    "BadBody",
    "CoprocessError",
    "CustomKeyCheck",
    "Event",
    "Headers",
    "Post",
    "PostKeyAuth",
    "Pre",
    "Query",
    "Reject",
    "Reply",
    "Request",
    "Response",
    "Session",
    "Spec",
    "State",
    "StoreError",
    "current_app",
    "g",
    "respond",
    "store",
    "trigger_event",
]
