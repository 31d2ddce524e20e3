"""What a gateway says of itself to those who load handlers for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType

from coprocess.api.moments import HookType

_REQUEST_PARAMETERS = ("request", "session", "metadata", "spec", "state")

#: What a native handler of each type may ask for, by parameter name, where a gateway has all of it.
PARAMETERS: Mapping[HookType, tuple[str, ...]] = {
    HookType.Pre: _REQUEST_PARAMETERS,
    HookType.CustomKeyCheck: _REQUEST_PARAMETERS,
    HookType.PostKeyAuth: _REQUEST_PARAMETERS,
    HookType.Post: _REQUEST_PARAMETERS,
    HookType.Response: ("response", *_REQUEST_PARAMETERS),
    HookType.Event: ("event", "spec", "state"),
}


@dataclass(frozen=True, slots=True)
class Home:
    """A gateway, as the loader knows it."""

    #: As `tyk`: types that only one gateway has say so by their attribute `gateway`.
    name: str
    #: Modules that handler code may import by these names.
    aliases: Mapping[str, ModuleType] = field(default_factory=dict)
    #: What native handlers may ask for. A type that is missing does not exist at this gateway.
    parameters: Mapping[HookType, tuple[str, ...]] = field(default_factory=lambda: PARAMETERS)
    #: Whether its calls say of which request they are, as `call.lifetime`; else each is on its own.
    calls_share_a_request: bool = False
    #: Whether its handlers of Post and Response can have bodies in pieces: `request.stream()`.
    streams_bodies: bool = False


#: No gateway in particular: it has all that any may have.
ANYWHERE = Home("anywhere", streams_bodies=True)
