"""What decorators said of functions, and how the loader gets to know of it.

What a handler module declares goes to the loader that runs it, so that two functions of one name are both
found. What any other code declares is kept on the function, so that one imported from an installed library
is found at every load, and not only at the one that imports the library.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from coprocess.api.functions import Source
from coprocess.api.moments import HookType

MARK = "__coprocess_declarations__"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a handler may use. None: the service's default."""

    timeout_s: float | None = None
    #: Calls that run at one time; further ones wait in a queue.
    concurrency: int | None = None
    #: What an overrun or an exception does: `closed` refuses the request, `open` passes it unchanged.
    on_error: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Declaration:
    """What a decorator said of a function. The loader makes hooks of it, after its module has run."""

    function: Callable[..., Any]
    types: tuple[HookType, ...]
    name: str
    source: Source
    style: str
    #: Makes the call plan of a style that a gateway brings along, as `native_plan` does for native style.
    plan: Callable[[Callable[..., Any], HookType, Source], Any] | None = None
    api_id: str | None = None
    limits: Limits = field(default_factory=Limits)
    #: Where the gateway gives no order: lower numbers run first, equal ones as they are written.
    order: int = 0
    #: Whether it uses the body of what it is passed; None: as its code shows (`loading.body_use`).
    body: bool | None = None
    #: The names of the module whose code declared it.
    namespace: Mapping[str, Any] = field(default_factory=lambda: module_that_runs())
    #: Of `types`, those whose handlers take other arguments than this function does.
    misfits: tuple[HookType, ...] = ()


@dataclass(frozen=True, slots=True)
class _Collection:
    package: str
    declarations: list[Declaration]


_collection: ContextVar[_Collection | None] = ContextVar("coprocess_declarations", default=None)


@contextmanager
def collecting(package: str = "") -> Iterator[list[Declaration]]:
    """Collect what decorators declare within, in modules whose name begins so."""
    declarations: list[Declaration] = []
    token = _collection.set(_Collection(package, declarations))
    try:
        yield declarations
    finally:
        _collection.reset(token)


def declare(declaration: Declaration) -> None:
    """Make `declaration` known to the loader."""
    collection = _collection.get()
    if collection is not None and str(declaration.namespace.get("__name__")).startswith(collection.package):
        # Not on the function too: it may be a library's, which outlives the module that declares it.
        collection.declarations.append(declaration)
        return
    try:
        marks = vars(declaration.function).setdefault(MARK, [])
    except TypeError:  # An object without a __dict__. It could be found in no other way.
        return
    marks.append(declaration)


def module_that_runs() -> Mapping[str, Any]:
    """The names of the module that is being imported now; of none, where none is.

    Not the caller's: a library may declare handlers when a handler module calls it.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            return frame.f_globals
        frame = frame.f_back
    return {}
