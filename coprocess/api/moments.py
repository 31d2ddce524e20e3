"""The moments of a request at which handlers run."""

from __future__ import annotations

from enum import IntEnum


class HookType(IntEnum):
    """When a handler runs. The numbers are what a gateway's protocol may send."""

    Pre = 1
    Post = 2
    PostKeyAuth = 3
    CustomKeyCheck = 4
    Response = 5
    Event = 100
