"""What the process knows of a gateway: all that is registered of one, before and when it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coprocess.api.moments import HookType
from coprocess.loading.home import Home
from coprocess.loading.hooks import HookTable
from coprocess.loading.loaded import Loaded
from coprocess.runtime.gateway import Gateway
from coprocess.transport.engine import Engine, EngineOptions


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """The settings that a gateway is made with."""

    #: Send back all, and not only what the gateway reads.
    full_reply: bool = False
    #: Of request and response, in one message.
    max_headers: int = 1000
    #: Of a request or a response, where handlers read it.
    max_body_bytes: int = 4 << 20
    #: What signs the ids of requests, and how long their state is kept, in seconds; None: hooks share none.
    request_state: tuple[str | None, float] | None = None
    #: The tables `[chains.NAME]` of the settings file as it is now. Raises ConfigError.
    chains: Callable[[], Mapping[str, Mapping[HookType, tuple[str, ...]]]] = dict
    #: Where the limits of sessions are counted, as the library `limits` writes it; None: in this process.
    limits_store: Callable[[], str | None] = lambda: None


#: Makes a front of a folder, the count of its workers, and what gives of these whether each is ready, and the
#: process ids of those that live.
FrontEngine = Callable[[Path, int, Callable[[], Sequence[bool]], Callable[[], Sequence[int]]], Engine]


@dataclass(frozen=True, slots=True)
class Registration:
    """One gateway that the process can serve. Its name is its home's."""

    home: Home
    #: Makes it, at work on the handlers of a table.
    make: Callable[[HookTable, GatewayOptions], Gateway]
    #: The full names of its gRPC services: health and reflection tell of them.
    services: tuple[str, ...]
    #: The paths of its unary methods: the keys of what `Gateway.methods` has.
    methods: tuple[str, ...]
    #: Whether events come from it as webhooks, too.
    takes_webhooks: bool = False
    #: The paths of its methods with many messages each way: the keys of what `Gateway.bidi_methods` has.
    bidi_methods: tuple[str, ...] = ()
    #: The services' files for reflection: FileDescriptorProtos, serialized. Called where reflection is on.
    descriptors: Callable[[], Iterable[bytes]] = tuple
    #: Makes the engine, where its gateway speaks no gRPC.
    engine: Callable[[EngineOptions], Engine] | None = None
    #: The same for the front of several workers, which then take requests by engines of their own. All of
    #: them know its folder (as `--shared-folder`).
    front_engine: FrontEngine | None = None
    #: Whether it serves all handlers or none, as nobody would miss those that are not loaded.
    strict: bool = False
    #: Loads what it serves, where that is no folders of handlers. Raises CoprocessError.
    load: Callable[[], Loaded] | None = None
