"""What an App declares, compiled around its handlers when they are loaded.

A handler around which nothing is declared stays as it is, and its calls pay nothing. The order is Flask's:
`before` in order, the handler, `after` in reverse, `teardown` in reverse.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import structlog

from coprocess.api.app import ALL_MOMENTS, App, AroundDeclaration
from coprocess.api.functions import Source, is_async
from coprocess.api.messages import Reject, Reply
from coprocess.api.moments import HookType
from coprocess.errors import HandlerError, HandlerFailed
from coprocess.loading.home import Home
from coprocess.loading.hooks import Hook, Plan
from coprocess.loading.plan import RESOURCES, Passing, offered_names, passing
from coprocess.loading.resources import Resource, Resources, Spawn, in_order

log = structlog.get_logger("coprocess")

#: Runs something for a call: gives its result, or an awaitable of it.
Step = Callable[[Any], Any]
#: Waits for an awaitable: on the loop that runs the call, or from the thread that does.
Finish = Callable[[Awaitable[Any]], Coroutine[Any, Any, Any]]
_Manager = AbstractContextManager[Any] | AbstractAsyncContextManager[Any]


@dataclass(frozen=True, slots=True)
class _Part:
    """A function of the App, with what it is passed."""

    run: Step
    is_async: bool
    resources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Steps:
    """What runs for the calls of one hook, each in its order."""

    opens: tuple[tuple[Resource, Step], ...]
    befores: tuple[Step, ...]
    handler: Step
    accept: Callable[[Any, Any], None]
    afters: tuple[Step, ...]
    error_handlers: Mapping[type[BaseException], Step]
    teardowns: tuple[Step, ...]
    finish: Finish

    def for_error(self, error: Exception) -> Step | None:
        return next(
            (self.error_handlers[each] for each in type(error).__mro__ if each in self.error_handlers), None
        )


class Lifecycle:
    """An App at work: its resources, and what it puts around handlers.

    Raises HandlerError where something of it asks for what it cannot get.
    """

    def __init__(self, app: App, home: Home) -> None:
        self.app = app
        self._home = home
        self.resources = Resources(app)
        self._spawn_on_loop: Spawn | None = None

    def open(self, spawn: Spawn, timeout_s: float) -> None:
        """Open the resources of the App. Raises ResourceError.

        `spawn` starts coroutines on the handlers' loop, from now on: also what is async around sync handlers.
        """
        self._spawn_on_loop = spawn
        self.resources.open(spawn, timeout_s)

    def _spawn(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        if self._spawn_on_loop is None:
            coroutine.close()
            raise RuntimeError("async code around a sync handler needs an event loop, and none runs")
        return self._spawn_on_loop(coroutine)

    def around(self, hook: Hook) -> Hook:
        """`hook` with all that the App declares around it."""
        app, moment = self.app, hook.type
        offered = offered_names(self._home, moment, hook.source, self.resources.all)
        for_after = offered if moment is HookType.Response else {**offered, "response": "outcome"}
        for_end = {**offered, "error": "error"}
        befores = self._parts(app.befores, moment, offered)
        afters = self._parts(app.afters, moment, for_after)
        teardowns = self._parts(app.teardowns, moment, for_end)
        answers: dict[type[BaseException], _Part] = {}
        for declared in app.error_handlers:
            part = self._part(declared.function, declared.source, for_end, optional=moment is HookType.Event)
            if part is not None:
                answers.update(dict.fromkeys(declared.errors, part))
        parts = [*befores, *afters, *teardowns, *answers.values()]
        asked = [name for name in hook.plan.names if name in self.resources.all]
        wanted = {*asked, *(name for part in parts for name in part.resources)}
        opens = in_order(self.resources.all, sorted(wanted))
        hook = replace(hook, app=app)
        per_call = [each for each in opens if not each.is_of_app]
        if not parts and not per_call:
            return replace(hook, plan=self._with_values(hook.plan)) if opens else hook
        in_place = hook.is_async
        steps = _Steps(
            opens=tuple((each, self._maker(each, offered)) for each in per_call),
            befores=tuple(self._step(part, in_place) for part in befores),
            handler=_bound(hook.function, hook.plan.arguments),
            accept=hook.plan.accept,
            afters=tuple(self._step(part, in_place) for part in reversed(afters)),
            error_handlers={error: self._step(part, in_place) for error, part in answers.items()},
            teardowns=tuple(self._step(part, in_place) for part in reversed(teardowns)),
            finish=_awaited if in_place else self._from_thread,
        )
        run = _compiled(steps, self.resources)
        return replace(hook, plan=_WHOLE_CALL, function=run if in_place else _without_loop(run))

    def _with_values(self, plan: Plan) -> Plan:
        values, arguments = self.resources.values, plan.arguments

        def with_values(call: Any) -> tuple[Any, ...]:
            call.resources = values
            return arguments(call)

        return replace(plan, arguments=with_values)

    def _parts(
        self, declared: Sequence[AroundDeclaration], moment: HookType, offered: Mapping[str, str]
    ) -> list[_Part]:
        parts = [
            # An event has no request: what asks for one, and names no moment, is not meant for events.
            self._part(
                each.function,
                each.source,
                offered,
                optional=moment is HookType.Event and each.moments == ALL_MOMENTS,
            )
            for each in declared
            if moment in each.moments
        ]
        return [part for part in parts if part is not None]

    def _part(
        self, function: Callable[..., Any], source: Source, offered: Mapping[str, str], *, optional: bool
    ) -> _Part | None:
        """The function, ready to be called; None where it cannot be, and is `optional`."""
        try:
            passed = passing(function, source, offered, "it")
        except HandlerError:
            if optional:
                return None
            raise
        return _Part(_call(function, passed), is_async(function), _resources(passed, offered))

    def _maker(self, resource: Resource, offered: Mapping[str, str]) -> Step:
        passed = passing(resource.make, resource.declaration.source, offered, f'resource "{resource.name}"')
        return _call(resource.make, passed)

    def _step(self, part: _Part, in_place: bool) -> Step:
        """The part such that, for a sync handler, its thread waits for what is async."""
        if in_place or not part.is_async:
            return part.run
        run, spawn = part.run, self._spawn
        return lambda call: spawn(run(call)).result()

    async def _from_thread(self, awaitable: Awaitable[Any]) -> Any:
        return self._spawn(_awaited(awaitable)).result()


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _call(function: Callable[..., Any], passed: Passing) -> Step:
    return _bound(passed.function or function, passed.arguments)


def _bound(function: Callable[..., Any], arguments: Callable[[Any], tuple[Any, ...]]) -> Step:
    return lambda call: function(*arguments(call))


def _resources(passed: Passing, offered: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(name for name in passed.names if offered[name].startswith(RESOURCES))


def _accept_whole_call(call: Any, result: Any) -> None:
    call.reply(result)


#: The plan of a handler with code around it: that takes the call, and gives nothing, or the reply.
_WHOLE_CALL = Plan(arguments=lambda call: (call,), accept=_accept_whole_call)


def _compiled(steps: _Steps, resources: Resources) -> Callable[[Any], Coroutine[Any, Any, Any]]:
    """One call, from the first `before` to the last `teardown`."""
    befores, handler, accept, afters, teardowns = (
        steps.befores,
        steps.handler,
        steps.accept,
        steps.afters,
        steps.teardowns,
    )
    values = resources.values

    async def run(call: Any) -> Reply | None:
        call.resources = values
        outcome: Reply | Reject | None = None
        error: BaseException | None = None
        opened: list[tuple[str, _Manager]] = []
        try:
            try:
                if steps.opens:
                    await _open(call, steps, resources, opened)
                for before in befores:
                    if (result := before(call)) is not None and (outcome := await _reply(result)) is not None:
                        break
                else:
                    if (result := handler(call)) is not None:
                        if hasattr(result, "__await__"):
                            result = await result
                        if type(result) is Reply:
                            outcome = result
                        elif result is not None:
                            accept(call, result)
            except Reject as reject:
                outcome = reject
            except Exception as raised:
                if (answer := steps.for_error(raised)) is None:
                    raise
                outcome = await _answer(answer, call, raised)
            if afters:
                outcome = await _run_afters(call, afters, outcome)
        except BaseException as raised:
            error = raised
            raise
        finally:
            call.error = error
            if teardowns:
                await _run_teardowns(call, teardowns)
            if opened:
                await _close(opened, error, steps.finish)
        if isinstance(outcome, Reject):
            raise outcome
        return outcome

    return run


def _without_loop(run: Callable[[Any], Coroutine[Any, Any, Any]]) -> Callable[[Any], Any]:
    """`run` as a function: nothing in it waits for a loop, where all its steps are sync."""

    def call_it(call: Any) -> Any:
        try:
            run(call).send(None)
        except StopIteration as done:
            return done.value
        raise RuntimeError("a step of a sync handler waits for an event loop")

    return call_it


async def _reply(result: Any) -> Reply | None:
    """What a `before` or an error handler returned, other than None."""
    if hasattr(result, "__await__"):
        result = await result
    if result is None or type(result) is Reply:
        return result
    raise HandlerFailed(
        f"has code around it that returned {type(result).__name__}: expected respond(...) or nothing"
    )


async def _answer(answer: Step, call: Any, error: Exception) -> Reply | Reject | None:
    call.error = error
    try:
        result = answer(call)
        return None if result is None else await _reply(result)
    except Reject as reject:
        return reject
    finally:
        call.error = None


async def _run_afters(
    call: Any, afters: Sequence[Step], outcome: Reply | Reject | None
) -> Reply | Reject | None:
    in_response = call.hook.type is HookType.Response
    for after in afters:
        if in_response and outcome is not None:
            # The response is what they see, and may edit: so the answer goes into it first.
            if isinstance(outcome, Reject):
                call.reject(outcome)
            else:
                call.reply(outcome)
            outcome = None
        call.outcome = outcome
        try:
            result = after(call)
            if hasattr(result, "__await__"):
                result = await result
        except Reject as reject:
            outcome = reject
            continue
        if result is None or result is outcome or (in_response and result is call.response):
            continue
        if type(result) is not Reply:
            raise HandlerFailed(
                f"has an `after` that returned {type(result).__name__}: "
                "expected respond(...), what it was passed, or nothing"
            )
        outcome = result
    return outcome


async def _run_teardowns(call: Any, teardowns: Sequence[Step]) -> None:
    for teardown in teardowns:
        try:
            result = teardown(call)
            if hasattr(result, "__await__"):
                await result
        except asyncio.CancelledError:
            # The others still run, each up to where it waits.
            continue
        except BaseException:
            log.exception("a teardown failed")


async def _open(call: Any, steps: _Steps, resources: Resources, opened: list[tuple[str, _Manager]]) -> None:
    call.resources = own = SimpleNamespace(**vars(resources.values))
    for resource, make in steps.opens:
        name = resource.name
        if name in resources.overrides:
            setattr(own, name, resources.overrides[name])
            continue
        made = make(call)
        if resource.is_context:
            value = await steps.finish(made.__aenter__()) if resource.is_async else made.__enter__()
            opened.append((name, made))
        else:
            value = await steps.finish(made) if resource.is_async else made
        setattr(own, name, value)


async def _close(opened: list[tuple[str, _Manager]], error: BaseException | None, finish: Finish) -> None:
    """Close the resources of a call, in reverse. Where one fails, the call does: its work may be undone."""
    failed: BaseException | None = None
    told = (None, None, None) if error is None else (type(error), error, error.__traceback__)
    for name, manager in reversed(opened):
        try:
            if isinstance(manager, AbstractAsyncContextManager):
                await finish(manager.__aexit__(*told))
            else:
                manager.__exit__(*told)
        except BaseException as raised:
            if raised is error:
                continue  # It passed the error on.
            log.exception("a resource of a call failed to close", resource=name)
            failed = raised
    if failed is not None and error is None:
        raise failed
