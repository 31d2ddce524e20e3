"""Whether a handler uses a body, as far as its code shows: gateways need not send one that nobody reads."""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

from coprocess.loading.hooks import Hook

#: Attributes of requests and responses that need the body.
BODY_NAMES = frozenset(("body", "raw_body", "text", "json", "set_json", "form", "stream"))


def uses_body(function: Callable[..., Any]) -> bool:
    """Whether the code of `function`, or of functions of its module that it names, speaks of a body.

    It is a guess from names, on the safe side: what speaks of `.json` may read a body. What it cannot see is
    code of other modules: a handler that reads a body there says so by `body=True`.
    """
    return not BODY_NAMES.isdisjoint(attributes_used(function))


def attributes_used(function: Callable[..., Any]) -> set[str]:
    """The names of all attributes in the code of `function`, or of functions of its module that it names."""
    used: set[str] = set()
    seen: set[CodeType] = set()
    waiting = [_plain(function)]
    while waiting:
        found = waiting.pop()
        if found is None:
            continue
        for code in _codes(found.__code__):
            if code in seen:
                continue
            seen.add(code)
            used.update(_attributes(code))
            module_name = found.__globals__.get("__name__")
            for name in code.co_names:
                other = _plain(found.__globals__.get(name))
                if other is not None and other.__globals__.get("__name__") == module_name:
                    waiting.append(other)
    return used


def streams_body(function: Callable[..., Any]) -> bool:
    """Whether the code of `function` calls `request.stream` or `response.stream`, by these names."""
    plain = _plain(function)
    if plain is None:
        return False
    for code in _codes(plain.__code__):
        before: Any = None
        for each in dis.get_instructions(code):
            if each.opname in _ATTRIBUTE_ACCESS and each.argval == "stream":
                # Of two that one instruction loads, the last is on top.
                name = before.argval[-1] if isinstance(before.argval, tuple) else before.argval
                if before.opname.startswith(("LOAD_FAST", "LOAD_DEREF")) and name in _STREAMED:
                    return True
            before = each
    return False


_STREAMED = ("request", "response")


def hook_uses_body(hook: Hook) -> bool:
    """The same for a handler with all that is around it; what its declaration says goes first."""
    return any(map(uses_body, _functions(hook))) if hook.body is None else hook.body


def hook_attributes(hook: Hook) -> set[str]:
    """As `attributes_used`, for a handler with all that is around it."""
    return set().union(*map(attributes_used, _functions(hook)))


def _functions(hook: Hook) -> list[Callable[..., Any]]:
    functions: list[Callable[..., Any]] = [hook.handler]
    if (app := hook.app) is not None:
        around = (*app.befores, *app.afters, *app.teardowns)
        functions += [each.function for each in around if hook.type in each.moments]
        functions += [each.function for each in app.error_handlers]
        functions += [
            inspect.unwrap(each.function) for each in app.resources.values() if each.scope == "call"
        ]
    return functions


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _attributes(code: CodeType) -> Iterator[str]:
    return (each.argval for each in dis.get_instructions(code) if each.opname in _ATTRIBUTE_ACCESS)


_ATTRIBUTE_ACCESS = frozenset(("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "DELETE_ATTR"))


def _plain(function: Any) -> FunctionType | None:
    """The Python function behind `function`, if there is one."""
    if function is None:
        return None
    try:
        function = inspect.unwrap(function)
        function = function.func if isinstance(function, functools.partial) else function
        if not isinstance(function, FunctionType):
            function = getattr(function, "__func__", None) or type(function).__call__
    except Exception:  # noqa: BLE001 - a global may be a proxy that can be asked within a request only
        return None
    return function if isinstance(function, FunctionType) else None
