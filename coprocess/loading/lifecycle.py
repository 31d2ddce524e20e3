"""What an App declares, compiled around its handlers when they are loaded.

A handler around which nothing is declared stays as it is, and its calls pay nothing. The order is Flask's:
`before` in order, the handler, `after` in reverse, `teardown` in reverse. Where calls know their request
(`Home.calls_share_a_request`), `teardown` and the resources of scope `call` are the request's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from coprocess.api.app import ALL_MOMENTS, App, AroundDeclaration
from coprocess.api.context import current_call
from coprocess.api.functions import Source, is_async
from coprocess.api.moments import HookType
from coprocess.errors import HandlerError
from coprocess.loading.home import Home
from coprocess.loading.hooks import Hook, Plan
from coprocess.loading.lifetime import Teardown, Teardowns
from coprocess.loading.plan import RESOURCES, Passing, offered_names, passing
from coprocess.loading.resources import Resource, Resources, Spawn, in_order
from coprocess.loading.whole_call import Step, Steps, whole_call, without_loop


@dataclass(frozen=True, slots=True)
class _Part:
    """A function of the App, with what it is passed."""

    run: Step
    is_async: bool
    resources: tuple[str, ...]


class Lifecycle:
    """An App at work: its resources, and what it puts around handlers.

    Raises HandlerError where something of it asks for what it cannot get.
    """

    def __init__(self, app: App, home: Home) -> None:
        self.app = app
        self._home = home
        self.resources = Resources(app)
        own_names = {name for names in home.parameters.values() for name in names} | set(_ERROR)
        for name, resource in self.resources.all.items():
            if name in own_names:
                raise HandlerError(
                    f'{resource.declaration.source}: resource "{name}" has the name of an argument that '
                    f"handlers have anyway, the call's own {_ERROR.get(name, name)}. Expected: another name, "
                    f'as "my_{name}"'
                )
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
        for_end = {**offered, **_ERROR}
        befores = self._parts(app.befores, moment, offered)
        afters = self._parts(app.afters, moment, for_after)
        teardowns = self._parts(app.teardowns, moment, for_end)
        answers = self._error_handlers(for_end, optional=moment is HookType.Event)
        return self._compiled(
            hook, offered, list(befores.values()), list(afters.values()), teardowns, answers
        )

    def for_app(self) -> Hook | None:
        """What runs where the app failed that the handlers are around: it raises the call's `error`.

        None where the App has no error handlers.
        """
        app = self.app
        if not app.error_handlers:
            return None

        def failed(error: Exception) -> None:
            raise error

        source = app.error_handlers[0].source
        offered = {**offered_names(self._home, HookType.Post, source, self.resources.all), **_ERROR}
        answers = self._error_handlers(offered, optional=False)
        hook = Hook(
            type=HookType.Post,
            name="the app",
            handler=failed,
            function=failed,
            plan=Plan(arguments=lambda call: (call.error,), accept=_accept_whole_call, names=("error",)),
            is_async=any(part.is_async for part in answers.values()),
            style="native",
            source=source,
        )
        return self._compiled(hook, offered, [], [], {}, answers)

    def handles(self, error: BaseException) -> bool:
        """Whether an error handler answers for `error`."""
        return isinstance(error, tuple(each for one in self.app.error_handlers for each in one.errors))

    def _error_handlers(
        self, offered: Mapping[str, str], *, optional: bool
    ) -> dict[type[BaseException], _Part]:
        answers: dict[type[BaseException], _Part] = {}
        for declared in self.app.error_handlers:
            part = self._part(declared.function, declared.source, offered, optional=optional)
            if part is not None:
                answers.update(dict.fromkeys(declared.errors, part))
        return answers

    def _compiled(
        self,
        hook: Hook,
        offered: Mapping[str, str],
        befores: Sequence[_Part],
        afters: Sequence[_Part],
        teardowns: Mapping[int, _Part],
        answers: Mapping[type[BaseException], _Part],
    ) -> Hook:
        parts = [*befores, *afters, *teardowns.values(), *answers.values()]
        asked = [name for name in hook.plan.names if name in self.resources.all]
        wanted = {*asked, *(name for part in parts for name in part.resources)}
        opens = in_order(self.resources.all, sorted(wanted))
        hook = replace(hook, app=self.app, lifecycle=self)
        per_call = [each for each in opens if not each.is_of_app]
        if not parts and not per_call:
            return replace(hook, plan=self._with_values(hook.plan, offered)) if opens else hook
        in_place = hook.is_async
        of_request = self._home.calls_share_a_request and hook.type is not HookType.Event
        steps = Steps(
            in_response=hook.type is HookType.Response,
            opens=tuple((each, self._maker(each, offered)) for each in per_call),
            befores=tuple(self._step(part, in_place) for part in befores),
            handler=self._handler(hook, offered),
            accept=hook.plan.accept,
            afters=tuple(self._step(part, in_place) for part in reversed(afters)),
            error_handlers={error: self._step(part, in_place) for error, part in answers.items()},
            teardowns=()
            if of_request
            else tuple(self._step(part, in_place) for part in reversed(list(teardowns.values()))),
            at_end=Teardowns(
                self.app,
                tuple(Teardown(place, part.run, part.is_async) for place, part in teardowns.items()),
                in_place,
            )
            if of_request
            else None,
            in_place=in_place,
            finish=_awaited if in_place else self._from_thread,
        )
        run = whole_call(steps, self.resources)
        return replace(
            hook,
            plan=_WHOLE_CALL,
            function=run if in_place else without_loop(run),
            is_of_request=of_request and bool(teardowns or per_call),
        )

    def _with_values(self, plan: Plan, offered: Mapping[str, str]) -> Plan:
        """The plan of a handler that takes resources of scope `app`, and has nothing around it."""
        arguments = self._bound(_as_tuple, plan.names, offered)
        return replace(plan, arguments=arguments)

    def _parts(
        self, declared: Sequence[AroundDeclaration], moment: HookType, offered: Mapping[str, str]
    ) -> dict[int, _Part]:
        """Those of the moment, by their place among all."""
        parts = {
            # An event has no request: what asks for one, and names no moment, is not meant for events.
            place: self._part(
                each.function,
                each.source,
                offered,
                optional=moment is HookType.Event and each.moments == ALL_MOMENTS,
            )
            for place, each in enumerate(declared)
            if moment in each.moments
        }
        return {place: part for place, part in parts.items() if part is not None}

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
        return _Part(self._call(function, passed, offered), is_async(function), _resources(passed, offered))

    def _maker(self, resource: Resource, offered: Mapping[str, str]) -> Step:
        passed = passing(resource.make, resource.declaration.source, offered, f'resource "{resource.name}"')
        return self._call(resource.make, passed, offered)

    def _handler(self, hook: Hook, offered: Mapping[str, str]) -> Step:
        if hook.style == "native":
            return self._bound(hook.function, hook.plan.names, offered)
        function, arguments = hook.function, hook.plan.arguments
        return lambda call: function(*arguments(call))

    def _call(self, function: Callable[..., Any], passed: Passing, offered: Mapping[str, str]) -> Step:
        return self._bound(passed.function or function, passed.names, offered)

    def _bound(self, function: Callable[..., Any], names: Sequence[str], offered: Mapping[str, str]) -> Step:
        """Calls `function` for a call, with what it has under `names`.

        Written as code, as `lambda call: function(call.request, values.db)` is the fastest there is.
        """
        of_app = {each.name for each in self.resources.all.values() if each.is_of_app}
        read = [
            f"values.{name}"
            if name in of_app and offered[name].startswith(RESOURCES)
            else f"call.{offered[name]}"
            for name in names
        ]
        # The names are identifiers: of parameters, and of attributes that this package has.
        # In this file, by its name, as tracebacks of handlers leave out what is ours.
        step: Step = eval(  # noqa: S307 - see above
            compile(f"lambda call: function({', '.join(read)})", __file__, "eval"),
            {"function": function, "values": self.resources.values},
        )
        return step

    def _step(self, part: _Part, in_place: bool) -> Step:
        """The part such that, for a sync handler, its thread waits for what is async."""
        if in_place or not part.is_async:
            return part.run
        run, spawn = part.run, self._spawn
        return lambda call: spawn(_within(call, run)).result()

    async def _from_thread(self, awaitable: Awaitable[Any]) -> Any:
        return self._spawn(_awaited(awaitable)).result()


#: What failed, by the names that it has in Flask's own pages, too.
_ERROR = dict.fromkeys(("error", "exc", "exception", "e"), "error")


def _as_tuple(*values: Any) -> tuple[Any, ...]:
    return values


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def _within(call: Any, run: Step) -> Any:
    """As a task that has nothing of the call yet: what is not awaited in it is the call's."""
    current_call.set(call)
    return await run(call)


def _resources(passed: Passing, offered: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(name for name in passed.names if offered[name].startswith(RESOURCES))


def _accept_whole_call(call: Any, result: Any) -> None:
    call.reply(result)


#: The plan of a handler with code around it: that takes the call, and gives nothing, or the reply.
_WHOLE_CALL = Plan(arguments=lambda call: (call,), accept=_accept_whole_call)
