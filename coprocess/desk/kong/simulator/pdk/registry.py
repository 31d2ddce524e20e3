"""The PDK's methods by name: in which phases Kong lets them be called, and what a plugin server is sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from coprocess.desk.kong.simulator.exchange import Exchange
from coprocess.desk.kong.simulator.lua import LuaError, type_name

F = TypeVar("F", bound=Callable[..., Any])

R, A, E, L, P, C = "rewrite", "access", "response", "log", "preread", "certificate"
#: While the request is there.
REQUEST = (R, A, E)
BEFORE_UPSTREAM = (R, A)
AFTER_UPSTREAM = (E, L)
EVERYWHERE = (R, A, E, L, P, C)


@dataclass(frozen=True, slots=True)
class Method:
    """One function of the PDK."""

    name: str
    function: Callable[..., Any]
    phases: tuple[str, ...]
    #: Which Step brings its result: "" or "MultiMap", "Consumer", …
    step: str
    #: What Kong says in a wrong phase: that the function is for others, or that nothing can be had there.
    is_phase_checked: bool


METHODS: dict[bytes, Method] = {}


def pdk(
    name: str, phases: tuple[str, ...] = EVERYWHERE, step: str = "", *, checked: bool = True
) -> Callable[[F], F]:
    """Register a function as `kong.<name>`. It takes the exchange, then what the plugin passed."""

    def register(function: F) -> F:
        METHODS[f"kong.{name}".encode()] = Method(f"kong.{name}", function, phases, step, checked)
        return function

    return register


def argument(args: tuple[Any, ...], index: int) -> Any:
    """Lua's arguments that are not passed are nil."""
    return args[index] if index < len(args) else None


def text_argument(value: Any, what: str) -> bytes:
    if not isinstance(value, bytes):
        raise LuaError(f"{what} must be a string")
    return value


def limit_argument(value: Any, what: str) -> int:
    """How many headers or arguments: 100 where nothing is said."""
    if value is None:
        return 100
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise LuaError(f"{what} must be a number")
    if value < 1:
        raise LuaError(f"{what} must be >= 1")
    if value > 1000:
        raise LuaError(f"{what} must be <= 1000")
    return int(value)


def check_phase(x: Exchange, method: Method) -> None:
    if x.phase in method.phases:
        return
    # The log phase is a timer, and has no request; so has the handshake.
    if method.is_phase_checked and not (x.phase in (L, C) and set(method.phases) & set(REQUEST)):
        raise LuaError(f"function cannot be called in {x.phase} phase (only in: {', '.join(method.phases)})")
    if x.phase in (L, C):
        raise LuaError("API disabled in the current context")
    raise LuaError(f"function cannot be called in {x.phase} phase (only in: {', '.join(method.phases)})")


def described(value: Any) -> str:
    return type_name(value)
