"""From a function's signature to its call plan: what is passed, and what a return value means.

Everything is worked out when the handler is loaded; nothing is inspected while a request waits.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Protocol

from coprocess.api.functions import Source, describe, signature, spelled
from coprocess.api.messages import Event, Reply, Request, Response, Session
from coprocess.api.moments import HookType
from coprocess.errors import HandlerError, HandlerFailed
from coprocess.loading.body_use import streams_body
from coprocess.loading.home import ANYWHERE, Home
from coprocess.loading.hooks import Plan

#: Where a call has its open resources, as attributes.
RESOURCES = "resources."


class TakesReply(Protocol):
    """A call, as a plan sees it."""

    def reply(self, reply: Reply) -> None:
        """Take `reply` as the outcome."""


def native_plan(
    function: Callable[..., Any],
    hook_type: HookType,
    source: Source,
    home: Home,
    resources: Iterable[str] = (),
) -> Plan:
    """The plan of a function whose parameters are filled by name.

    Raises HandlerError where the function asks for what a hook of this type does not have at this gateway.
    """
    refuse_generator(function, source)
    refuse_other_gateways(function, source, home)
    refuse_streams(function, hook_type, source, home)
    offered = offered_names(home, hook_type, source, resources)
    passed = passing(function, source, offered, f"a {hook_type.name} hook")
    return Plan(
        arguments=passed.arguments,
        accept=_accept_native,
        function=passed.function,
        names=passed.names,
    )


def refuse_streams(function: Callable[..., Any], hook_type: HookType, source: Source, home: Home) -> None:
    """Raises HandlerError where the function asks for a body in pieces that it cannot have."""
    if not streams_body(function):
        return
    if not home.streams_bodies:
        raise HandlerError(
            f"{source}: {describe(function)} asks for stream(), and bodies come whole at {home.name}. "
            "Expected: .body"
        )
    if hook_type not in (HookType.Post, HookType.Response):
        # What comes later would be too late: the body is on its way.
        raise HandlerError(
            f"{source}: {describe(function)} asks for stream() in {hook_type.name}. "
            "Expected: a handler of Post or Response"
        )


def offered_names(
    home: Home, hook_type: HookType, source: Source, resources: Iterable[str] = ()
) -> dict[str, str]:
    """What functions of that type may ask for, and the attribute of the call that has it.

    Raises HandlerError where the gateway has no hooks of the type.
    """
    parameters = home.parameters.get(hook_type)
    if parameters is None:
        there = ", ".join(each.name for each in home.parameters)
        raise HandlerError(f"{source}: {home.name} has no {hook_type.name} hooks. Expected: one of {there}")
    return {name: name for name in parameters} | {name: RESOURCES + name for name in resources}


def refuse_other_gateways(function: Callable[..., Any], source: Source, home: Home) -> None:
    """Raises HandlerError where `function` asks for a type that only another gateway has."""
    if home is ANYWHERE:
        return
    try:
        # Evaluated where they can be; what is imported for type checkers only says nothing here.
        parameters = inspect.signature(function, eval_str=True).parameters
    except Exception:  # noqa: BLE001 - annotations may be any code
        return
    for parameter in parameters.values():
        gateway = getattr(parameter.annotation, "gateway", home.name)
        if gateway != home.name:
            raise HandlerError(
                f"{source}: {describe(function)} asks for {gateway}'s {parameter.name}, and this is "
                f"{home.name}. Expected: the type of that name in coprocess, which every gateway has"
            )


@dataclass(frozen=True, slots=True)
class Passing:
    """How a function is passed what it asks for by the names of its parameters."""

    arguments: Callable[[Any], tuple[Any, ...]]
    #: What is called with the arguments, where that is not the function itself.
    function: Callable[..., Any] | None
    #: The names it asks for.
    names: tuple[str, ...]


def passing(function: Callable[..., Any], source: Source, offered: Mapping[str, str], whose: str) -> Passing:
    """How to call `function`. `offered` maps the names it may ask for to attributes of the call.

    Raises HandlerError where it asks for something else, which is what `whose` does not have.
    """
    by_position: list[str] = []
    by_name: list[str] = []
    own_default = False
    for parameter in signature(function, source).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise HandlerError(
                f"{source}: {describe(function)} takes {spelled(parameter)}, which tells nothing "
                f"of what it needs. Expected: named parameters out of {', '.join(offered)} "
                "(a decorator around a handler should use functools.wraps)"
            )
        if parameter.name not in offered:
            if parameter.default is not parameter.empty:
                # It has a value of its own, and what follows it can only be passed by name.
                own_default = True
                continue
            raise HandlerError(
                f'{source}: {describe(function)} asks for "{parameter.name}", which {whose} '
                f"does not have. Expected: any of {', '.join(offered)}"
            )
        if parameter.kind is parameter.KEYWORD_ONLY or own_default:
            by_name.append(parameter.name)
        else:
            by_position.append(parameter.name)
    names = (*by_position, *by_name)
    return Passing(
        arguments=arguments_getter([offered[name] for name in names]),
        function=_passing_by_name(function, len(by_position), by_name) if by_name else None,
        names=names,
    )


def _passing_by_name(
    function: Callable[..., Any], by_position: int, by_name: list[str]
) -> Callable[..., Any]:
    """A function that takes all by position, for one that takes some by keyword only."""

    def call(*values: Any) -> Any:
        return function(*values[:by_position], **dict(zip(by_name, values[by_position:], strict=True)))

    return call


def arguments_getter(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    """A function that reads the attributes `names` off a call, as a tuple."""
    if not names:
        return lambda call: ()
    if len(names) == 1:
        # An attrgetter would give no tuple, and costs as much again within one. The name is an identifier, as
        # in `loading.lifecycle`.
        code = compile(f"lambda call: (call.{names[0]},)", __file__, "eval")
        getter: Callable[[Any], tuple[Any, ...]] = eval(code)  # noqa: S307 - see above
        return getter
    return attrgetter(*names)


def _accept_native(call: TakesReply, result: Any) -> None:
    if type(result) is Reply:
        call.reply(result)
        return
    refuse_coroutine(result)
    if isinstance(result, Exception):
        raise HandlerFailed(f"returned {type(result).__name__}: raise it instead")
    if not _only_arguments(result):
        raise HandlerFailed(
            f"returned {type(result).__name__}: expected nothing (edits are kept), or respond(...)"
        )


def _only_arguments(result: Any) -> bool:
    # `return request` and `return request, session` are what users of other runtimes write: the edits
    # are in the objects already.
    items = result if isinstance(result, (tuple, list)) else (result,)
    return all(item is None or isinstance(item, (Request, Response, Session, Event)) for item in items)


def refuse_generator(function: Callable[..., Any], source: Source) -> None:
    """Raises HandlerError where calling `function` would run nothing of it."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise HandlerError(f"{source}: {describe(function)} yields. Expected: a function that returns")


def refuse_coroutine(result: Any) -> None:
    """Raises HandlerFailed where a handler that is not known as async returned a coroutine."""
    if inspect.iscoroutine(result):
        result.close()
        raise HandlerFailed(
            "returned a coroutine, which nobody awaits: expected async def (a decorator around a handler "
            "should use functools.wraps)"
        )
