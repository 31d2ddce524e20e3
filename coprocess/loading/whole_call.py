"""One call of a handler with code around it: from the first `before` to the last `teardown`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import structlog

from coprocess.api.messages import Reject, Reply
from coprocess.error_text import format_error, is_not_ours
from coprocess.errors import HandlerFailed
from coprocess.loading.lifetime import Lifetime, Manager, Teardowns
from coprocess.loading.resources import Resource, Resources

log = structlog.get_logger("coprocess")

#: Runs something for a call: gives its result, or an awaitable of it.
Step = Callable[[Any], Any]
#: Waits for an awaitable: on the loop that runs the call, or from the thread that does.
Finish = Callable[[Awaitable[Any]], Coroutine[Any, Any, Any]]


@dataclass(frozen=True, slots=True)
class Steps:
    """What runs for the calls of one hook, each in its order."""

    in_response: bool
    opens: tuple[tuple[Resource, Step], ...]
    befores: tuple[Step, ...]
    handler: Step
    accept: Callable[[Any, Any], None]
    afters: tuple[Step, ...]
    error_handlers: Mapping[type[BaseException], Step]
    teardowns: tuple[Step, ...]
    #: In the place of `teardowns`, where they are the request's.
    at_end: Teardowns | None
    in_place: bool
    finish: Finish

    def for_error(self, error: Exception) -> Step | None:
        return next(
            (self.error_handlers[each] for each in type(error).__mro__ if each in self.error_handlers), None
        )


def whole_call(steps: Steps, resources: Resources) -> Callable[[Any], Coroutine[Any, Any, Any]]:
    """One call, from the first `before` to the last `teardown`, or to the last `after`."""
    befores, handler, accept = steps.befores, steps.handler, steps.accept
    afters, teardowns, at_end = steps.afters, steps.teardowns, steps.at_end
    opens, in_response = steps.opens, steps.in_response

    async def run(call: Any) -> Reply | None:
        outcome: Reply | Reject | None = None
        error: BaseException | None = None
        opened: list[tuple[str, Manager]] = []
        # None: no handler of the request's has anything for its end.
        lifetime: Lifetime | None = None
        if at_end is not None and (lifetime := call.lifetime) is not None:
            lifetime.began_call(call, at_end)
        try:
            try:
                if opens:
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
            for after in afters:
                if in_response and outcome is not None:
                    _into_response(call, outcome)
                    outcome = None
                call.outcome = outcome
                try:
                    if (result := after(call)) is None:
                        continue
                    if hasattr(result, "__await__"):
                        result = await result
                except Reject as reject:
                    outcome = reject
                else:
                    outcome = _changed(call, result, outcome, in_response)
        except BaseException as raised:
            error = raised
            raise
        finally:
            call.is_aside = True
            if at_end is not None:
                if lifetime is not None:
                    lifetime.ended_call(call, error)
            elif teardowns:
                call.error = error
                for teardown in teardowns:
                    try:
                        if (result := teardown(call)) is not None and hasattr(result, "__await__"):
                            await result
                    except asyncio.CancelledError:
                        # The others still run, each up to where it waits.
                        continue
                    except BaseException as failure:  # noqa: BLE001 - the others run, too
                        log.error("a teardown failed", exception=format_error(failure, is_not_ours))
            if opened:
                await _close(opened, error, steps.finish)
        if isinstance(outcome, Reject):
            raise outcome
        return outcome

    return run


def without_loop(run: Callable[[Any], Coroutine[Any, Any, Any]]) -> Callable[[Any], Any]:
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


def _into_response(call: Any, outcome: Reply | Reject) -> None:
    """Put the answer into the response: that is what `after` sees there, and may edit."""
    if isinstance(outcome, Reject):
        call.reject(outcome)
    else:
        call.reply(outcome)


def _changed(
    call: Any, result: Any, outcome: Reply | Reject | None, in_response: bool
) -> Reply | Reject | None:
    """The outcome, after an `after` has returned `result`."""
    if result is None or result is outcome or (in_response and result is call.response):
        return outcome
    if type(result) is not Reply:
        raise HandlerFailed(
            f"has an `after` that returned {type(result).__name__}: "
            "expected respond(...), what it was passed, or nothing"
        )
    return result


async def _open(call: Any, steps: Steps, resources: Resources, opened: list[tuple[str, Manager]]) -> None:
    lifetime: Lifetime | None = None if steps.at_end is None else call.lifetime
    if lifetime is None:
        own = SimpleNamespace(**vars(resources.values))
    else:
        own = lifetime.values_of(resources.values)
    call.resources = own
    call.is_aside = True
    for resource, make in steps.opens:
        name = resource.name
        if lifetime is not None and hasattr(own, name):
            continue  # An earlier call of the request has opened it.
        if name in resources.overrides:
            setattr(own, name, resources.overrides[name])
            continue
        made = make(call)
        if resource.is_context:
            value = await steps.finish(made.__aenter__()) if resource.is_async else made.__enter__()
            if lifetime is None:
                opened.append((name, made))
            else:
                await _keep(lifetime, name, made, steps, call)
        else:
            value = await steps.finish(made) if resource.is_async else made
        setattr(own, name, value)
    call.is_aside = False


async def _keep(lifetime: Lifetime, name: str, manager: Manager, steps: Steps, call: Any) -> None:
    try:
        lifetime.keep(name, manager, steps.in_place, call)
    except HandlerFailed as error:
        await _close([(name, manager)], error, steps.finish)
        raise


async def _close(opened: list[tuple[str, Manager]], error: BaseException | None, finish: Finish) -> None:
    """Close the resources of a call, in reverse. Where one fails, the call does: its work may be undone."""
    failed: BaseException | None = None
    told = (None, None, None) if error is None else (type(error), error, error.__traceback__)
    for name, manager in reversed(opened):
        try:
            if isinstance(manager, AbstractAsyncContextManager):
                await finish(manager.__aexit__(*told))
            else:
                manager.__exit__(*told)
        except BaseException as raised:  # noqa: BLE001 - it is logged
            if raised is error:
                continue  # It passed the error on.
            text = format_error(raised, is_not_ours)
            log.error("a resource of a call failed to close", resource=name, exception=text)
            failed = raised
    if failed is not None and error is None:
        raise failed
