"""`from tyk.decorators import *`: the decorators of the embedded driver.

A handler is called by position, according to how many arguments it takes: `(request, session, spec)`,
`(request, session, metadata, spec)`, or `(request, response, session, metadata, spec)`. Each form is called
at every moment, as the embedded driver does: the response is empty before there is one.
It returns what it was passed, or new objects in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import Message

from coprocess.api.declarations import Declaration, declare
from coprocess.api.decorators import checked_name
from coprocess.api.functions import Source, describe, signature, source_of, source_of_decorator, spelled
from coprocess.api.moments import HookType
from coprocess.errors import HandlerError, HandlerFailed
from coprocess.gateways.tyk.compat.request import TykCoProcessRequest
from coprocess.loading.hooks import Plan
from coprocess.loading.plan import refuse_coroutine, refuse_generator

if TYPE_CHECKING:
    from coprocess.gateways.tyk.call import TykCall, TykEventCall

__all__ = ["CustomKeyCheck", "Event", "Hook", "Post", "PostKeyAuth", "Pre"]

F = TypeVar("F", bound=Callable[..., Any])

_REQUEST_TYPES = (HookType.Pre, HookType.CustomKeyCheck, HookType.PostKeyAuth, HookType.Post)
_REQUEST_FORMS = "(request, session, spec) or (request, session, metadata, spec)"
_RESPONSE_FORM = "(request, response, session, metadata, spec)"
_EVENT_FORM = "(event, spec)"


class _Decorator:
    def __init__(self, name: str, types: tuple[HookType, ...], arities: dict[int, str]) -> None:
        self._name = name
        self._types = types
        self._arities = arities

    def __repr__(self) -> str:
        return f"tyk.decorators.{self._name}"

    def __call__(self, function: F) -> F:
        if isinstance(function, type) or not callable(function):
            raise HandlerError(
                f"{source_of_decorator()}: @{self._name} is on {function!r}. "
                "Expected: a function, or an instance with __call__"
            )
        source = source_of(function)
        declare(
            Declaration(
                function=function,
                types=self._types,
                name=checked_name(function, None, source),
                source=source,
                plan=self._plan,
                style="embedded",
                misfits=self._misfits(function, source),
            )
        )
        return function

    def _misfits(self, function: Callable[..., Any], source: Source) -> tuple[HookType, ...]:
        # Only @Hook leaves the type open. With five arguments it is most likely for responses: that counts
        # where two have one name, and where nobody else says what it is for.
        if HookType.Response not in self._types:
            return ()
        try:
            return _REQUEST_TYPES if _arity(function, source) == 5 else (HookType.Response,)
        except HandlerError:  # The plan raises it again.
            return ()

    def _plan(self, function: Callable[..., Any], hook_type: HookType, source: Source) -> Plan:
        refuse_generator(function, source)
        arity = _arity(function, source)
        if arity not in self._arities:
            expected = " or ".join(dict.fromkeys(self._arities.values()))
            raise HandlerError(
                f"{source}: {describe(function)} takes {arity} arguments. "
                f"Expected under @{self._name}: {expected}"
            )
        return _PLANS[arity]


def _arity(function: Callable[..., Any], source: Source) -> int:
    required = 0
    for parameter in signature(function, source).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise HandlerError(
                f"{source}: {describe(function)} takes {spelled(parameter)}, which does not say "
                f"how many arguments it needs. Expected: {_REQUEST_FORMS} (a decorator around a handler "
                "should use functools.wraps)"
            )
        if parameter.default is not parameter.empty:
            continue
        if parameter.kind is parameter.KEYWORD_ONLY:
            raise HandlerError(
                f"{source}: {describe(function)} takes {parameter.name} by keyword only. "
                f"Expected: {_REQUEST_FORMS}, passed by position"
            )
        required += 1
    return required


def _arguments_3(call: TykCall) -> tuple[Any, ...]:
    call.passed_raw = True
    message = call.message
    return TykCoProcessRequest(message.request), message.session, message.spec


def _arguments_4(call: TykCall) -> tuple[Any, ...]:
    call.passed_raw = True
    message = call.message
    return TykCoProcessRequest(message.request), message.session, message.metadata, message.spec


def _arguments_5(call: TykCall) -> tuple[Any, ...]:
    call.passed_raw = True
    message = call.message
    return (
        TykCoProcessRequest(message.request),
        message.response,
        message.session,
        message.metadata,
        message.spec,
    )


def _arguments_of_event(call: TykEventCall) -> tuple[Any, ...]:
    return call.event, call.event.get("spec") or {}


def _accept(call: TykCall, result: Any) -> None:
    """Take what a handler returned: some of what it was passed, or replacements, told by their type."""
    refuse_coroutine(result)
    message = call.message
    is_key_check = call.hook.type is HookType.CustomKeyCheck
    for item in result if isinstance(result, (tuple, list)) else (result,):
        if isinstance(item, TykCoProcessRequest):
            item = item.object
        # What nearly every handler returns.
        if item is message.request or (item is message.session and not is_key_check):
            continue
        if isinstance(item, Message):
            _replace_message(call, item)
        elif isinstance(item, Mapping):
            _replace_metadata(call, item)
        elif item is not None:
            raise HandlerFailed(
                f"returned {type(item).__name__}: "
                "expected the request, the response, the session or the metadata"
            )


def _replace_message(call: TykCall, item: Message) -> None:
    name = item.DESCRIPTOR.full_name
    field = _FIELD_OF_MESSAGE.get(name)
    if field is None:
        raise HandlerFailed(
            f"returned a {name} message: expected the request, the response, the session or the metadata"
        )
    target = getattr(call.message, field)
    if target is item:
        if field == "session":  # Of a key check.
            # A session that is returned is one, even if nothing in it was set: without limits.
            target.SetInParent()
        return
    if type(target) is type(item):
        target.CopyFrom(item)
    else:  # Of the plugin's own generated modules.
        target.ParseFromString(item.SerializeToString())


_FIELD_OF_MESSAGE = {
    "coprocess.MiniRequestObject": "request",
    "coprocess.ResponseObject": "response",
    "coprocess.SessionState": "session",
}


def _replace_metadata(call: TykCall, item: Mapping[Any, Any]) -> None:
    target, spec = call.message.metadata, call.message.spec
    if item is target or item is spec or (item and item == spec):
        return
    entries = dict(item)
    for key, value in entries.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise HandlerFailed(
                f"returned metadata whose {key!r} is no text: expected str keys and str values"
            )
    target.clear()
    target.update(entries)


def _accept_nothing(call: TykEventCall, result: Any) -> None:
    """Whatever an event handler returns: nobody waits for it."""


_PLANS = {
    2: Plan(arguments=_arguments_of_event, accept=_accept_nothing),
    3: Plan(arguments=_arguments_3, accept=_accept),
    4: Plan(arguments=_arguments_4, accept=_accept),
    5: Plan(arguments=_arguments_5, accept=_accept),
}

_REQUEST_ARITIES = {3: _REQUEST_FORMS, 4: _REQUEST_FORMS, 5: _RESPONSE_FORM}

Hook = _Decorator("Hook", (*_REQUEST_TYPES, HookType.Response), _REQUEST_ARITIES)
Pre = _Decorator("Pre", (HookType.Pre,), _REQUEST_ARITIES)
Post = _Decorator("Post", (HookType.Post,), _REQUEST_ARITIES)
PostKeyAuth = _Decorator("PostKeyAuth", (HookType.PostKeyAuth,), _REQUEST_ARITIES)
CustomKeyCheck = _Decorator("CustomKeyCheck", (HookType.CustomKeyCheck,), _REQUEST_ARITIES)
Event = _Decorator("Event", (HookType.Event,), {2: _EVENT_FORM})
