"""What can be seen of a function before it is called."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coprocess.errors import HandlerError


@dataclass(frozen=True, slots=True)
class Source:
    """Where a function is written."""

    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


def signature(function: Callable[..., Any], source: Source) -> inspect.Signature:
    """The signature of `function`, through functools.wraps. Raises HandlerError where it has none."""
    refuse_bare_wraps(function)
    try:
        return inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise HandlerError(f"{source}: {describe(function)} has no readable signature: {error}") from None


def bare_wraps(function: Any) -> Any:
    """The function that was decorated by functools.wraps itself, and not by what that gives; else None."""
    if isinstance(function, functools.partial) and function.func is functools.update_wrapper:
        return function.keywords.get("wrapped")
    return None


def refuse_bare_wraps(function: Any) -> None:
    """Raises HandlerError where it was made by such a decorator: calling it would run nothing of it."""
    if (inner := bare_wraps(function)) is not None:
        raise HandlerError(
            f"{source_of(inner)}: {describe(inner)} stands under @functools.wraps without its argument, "
            "which makes no function of it. Expected: @functools.wraps(function)"
        )


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling `function` gives a coroutine, also under decorators that use functools.wraps."""
    while True:
        if inspect.iscoroutinefunction(function):
            return True
        if isinstance(function, functools.partial):
            function = function.func
        elif (wrapped := getattr(function, "__wrapped__", None)) is not None:
            function = wrapped
        elif not inspect.isroutine(function):
            function = type(function).__call__
        else:
            return False


def spelled(parameter: inspect.Parameter) -> str:
    """`parameter` as it is written, without its annotation."""
    return str(parameter.replace(annotation=parameter.empty))


def describe(function: Callable[..., Any]) -> str:
    """The name by which a person knows `function`."""
    name = getattr(function, "__name__", None)
    return f"{name}()" if isinstance(name, str) else f"an instance of {type(function).__name__}"


def source_of(function: Callable[..., Any]) -> Source:
    """Where `function` is written; for an instance, where its class is."""
    target: Any = inspect.unwrap(function)
    while (inner := bare_wraps(target)) is not None:
        target = inspect.unwrap(inner)
    while isinstance(target, functools.partial):
        target = inspect.unwrap(target.func)
    if (code := getattr(target, "__code__", None)) is None:
        code = getattr(inspect.unwrap(type(target).__call__), "__code__", None)
    if code is None:
        return Source(Path("unknown"), 0)
    return Source(Path(code.co_filename), code.co_firstlineno)


def source_of_decorator() -> Source:
    """Where the decorator stands that is being called: in the nearest code outside of this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("coprocess."):
        frame = frame.f_back
    return Source(Path(frame.f_code.co_filename), frame.f_lineno)
