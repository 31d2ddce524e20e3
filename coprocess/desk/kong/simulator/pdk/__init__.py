"""The PDK, as a plugin server reaches it."""

from __future__ import annotations

from typing import Any

from coprocess.desk.kong.simulator.exchange import Exchange, NotSimulated
from coprocess.desk.kong.simulator.lua import LuaError, type_name
from coprocess.desk.kong.simulator.pdk import around, request, response, service
from coprocess.desk.kong.simulator.pdk.registry import METHODS, Method, check_phase

__all__ = ["METHODS", "READS_BODY", "Method", "call_method", "find_method", "step_of"]

# Importing them registers their functions.
_MODULES = (around, request, response, service)

#: These wait for what the client has not sent yet.
READS_BODY = frozenset({b"kong.request.get_raw_body", b"kong.request.get_body"})
#: What is in Kong's table, and is no function of the PDK that takes what a plugin server can pass.
_OTHERS = (
    *("kong.db", "kong.cache", "kong.core_cache", "kong.configuration", "kong.version", "kong.dns"),
    *("kong.version_num", "kong.plugins", "kong.default_workspace", "kong.timer", "kong.rpc"),
)
#: PDK functions that a real Kong has.
_NOT_SIMULATED = (
    *("kong.jwe.", "kong.table.", "kong.tracing.", "kong.websocket.", "kong.enterprise_edition."),
    *("kong.vault.flush", "kong.vault.update"),
)
#: Tables that hold the functions.
_TABLES = frozenset(
    b".".join(name.split(b".")[:length]) for name in METHODS for length in range(1, name.count(b".") + 1)
) - set(METHODS)


def find_method(name: Any) -> Method | None:
    """None where Kong finds nothing by that name: it then logs that, and goes on with nil.

    Raises LuaError for what is there and cannot be called, NotSimulated for what only a real Kong does.
    """
    if not isinstance(name, bytes):
        raise LuaError(f"attempt to index local 'cmd' (a {type_name(name)} value)")
    if (method := METHODS.get(name)) is not None:
        return method
    if name in _TABLES:
        raise LuaError("attempt to call local 'method' (a table value)")
    text = name.decode("utf-8", "replace")
    for other in _OTHERS:
        if text == other or text.startswith(f"{other}."):
            raise LuaError("attempt to call local 'method': it is no function of the PDK")
    if text.startswith(_NOT_SIMULATED):
        raise NotSimulated(f"{text}: a real Kong has it, the simulated one does not")
    return None


def call_method(x: Exchange, method: Method, args: list[Any]) -> Any:
    """The first result. Raises LuaError, Exit."""
    check_phase(x, method)
    if method.name in x.kong.facts.told:
        return x.kong.facts.told[method.name](x, args)
    taken = method.function.__code__.co_argcount - 1
    if method.function.__code__.co_flags & 0x04 == 0:
        # Lua drops arguments that a function does not take.
        args = args[:taken]
    return method.function(x, *args)


def step_of(method: Any) -> str:
    """Which Step brings the result of a call."""
    found = METHODS.get(method)
    return f"Step{found.step}" if found else "Step"
