"""`App`: what a folder's handlers share. Resources, code around handlers, error handlers, settings.

A module makes one at its top level, and the loader finds it there, as it finds handlers. An App holds for
the handlers of its folder; without one, handlers run as they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, TypeVar, overload

from coprocess.api.declarations import module_that_runs
from coprocess.api.decorators import HookDecorator, moment_of
from coprocess.api.functions import (
    Source,
    describe,
    refuse_bare_wraps,
    signature,
    source_of,
    source_of_decorator,
)
from coprocess.api.messages import Event, Reject, Response
from coprocess.api.moments import HookType
from coprocess.errors import HandlerError

F = TypeVar("F", bound=Callable[..., Any])
#: What names a moment: its decorator.
Moment: TypeAlias = HookDecorator | type[Response] | type[Event]
Scope = Literal["app", "call"]

#: What `before`, `after` and `teardown` hold for when they name no moment.
ALL_MOMENTS = frozenset(HookType)


@dataclass(frozen=True, slots=True, eq=False)
class ResourceDeclaration:
    """A function that makes a resource. Its parameters name what it is made of."""

    name: str
    function: Callable[..., Any]
    scope: Scope
    source: Source


@dataclass(frozen=True, slots=True, eq=False)
class AroundDeclaration:
    """A function that runs before or after handlers, or when they have ended."""

    function: Callable[..., Any]
    moments: frozenset[HookType]
    source: Source


@dataclass(frozen=True, slots=True, eq=False)
class ErrorHandlerDeclaration:
    """A function that answers for handlers which raised `errors`."""

    function: Callable[..., Any]
    errors: tuple[type[Exception], ...]
    source: Source


class App:
    """What the handlers of a folder share.

    `config` is the table `[app]` of coprocess.toml, or `[app.NAME]` for `App("NAME")`, read-only. A variable
    `COPROCESS_APP_DB_URL` (`COPROCESS_APP_NAME_DB_URL`) wins over its `db_url`. It is empty where the module
    is imported by anybody but the loader.
    """

    def __init__(self, name: str = "") -> None:
        """Raises HandlerError where `name` is no identifier."""
        if not isinstance(name, str) or (name and not name.isidentifier()):
            raise HandlerError(
                f"{source_of_decorator()}: App({name!r}). Expected: a name such as an identifier"
            )
        self.name = name
        self.source = source_of_decorator()
        #: The module that made it: the loader looks for Apps by it.
        self.namespace: Mapping[str, Any] = module_that_runs()
        self.config: Mapping[str, Any] = MappingProxyType(dict(_configs.get()(name)))
        self.resources: dict[str, ResourceDeclaration] = {}
        self.befores: list[AroundDeclaration] = []
        self.afters: list[AroundDeclaration] = []
        self.teardowns: list[AroundDeclaration] = []
        self.error_handlers: list[ErrorHandlerDeclaration] = []

    def __repr__(self) -> str:
        # No settings: secrets may be among them.
        return f"<App {self.name!r}>" if self.name else "<App>"

    @overload
    def resource(self, function: F, /) -> F: ...

    @overload
    def resource(self, /, *, scope: Scope = "app", name: str | None = None) -> Callable[[F], F]: ...

    def resource(self, function: Any = None, /, *, scope: Scope = "app", name: str | None = None) -> Any:
        """Declare a resource, which handlers get by the name of a parameter.

        The function returns it, or yields it once and closes it afterwards; it may also return a context
        manager, which is entered, if it is decorated with `contextlib.contextmanager` or its async twin.
        Sync or async. Its parameters are other resources; a resource of scope `call` may also ask for what
        handlers ask for.

        `app`: opened once for each load, before its handlers serve, and closed after their last call. `call`:
        opened for each call of a handler that asks for it, and closed at its end, whatever happened.
        """
        where = source_of_decorator()
        if scope not in ("app", "call"):
            raise HandlerError(f'{where}: scope={scope!r}. Expected: "app" or "call"')

        def declare(function: F) -> F:
            _refuse_no_function(function, "@app.resource", where)
            source = source_of(function)
            refuse_bare_wraps(function)
            found = name or getattr(function, "__name__", "")
            if not isinstance(found, str) or not found.isidentifier():
                raise HandlerError(f'{source}: {describe(function)} has no name. Expected: name="…"')
            if (other := self.resources.get(found)) is not None:
                raise HandlerError(
                    f'{source}: a second resource "{found}"; the first is at {other.source}. '
                    "Expected: one of each name"
                )
            self.resources[found] = ResourceDeclaration(found, function, scope, source)
            return function

        return declare if function is None else declare(function)

    @overload
    def before(self, moment: Moment, /, *more: Moment) -> Callable[[F], F]: ...

    @overload
    def before(self, function: F, /) -> F: ...

    def before(self, *what: Any) -> Any:
        """Run a function before each handler: `@app.before`, or of some moments, `@app.before(Pre, Post)`.

        In order of declaration. One that returns `respond(…)`, or raises Reject, answers in the handler's
        place.
        """
        return _around(self.befores, "before", what)

    @overload
    def after(self, moment: Moment, /, *more: Moment) -> Callable[[F], F]: ...

    @overload
    def after(self, function: F, /) -> F: ...

    def after(self, *what: Any) -> Any:
        """Run a function after each handler, as `before`, in reverse order of declaration.

        Its parameter `response` is the answer so far: the Reply or Reject of the handler, of a `before` or of
        an error handler, or None where the request goes on; in Response hooks it is the response. It may be
        edited, and a returned `respond(…)` replaces it.
        """
        return _around(self.afters, "after", what)

    @overload
    def teardown(self, moment: Moment, /, *more: Moment) -> Callable[[F], F]: ...

    @overload
    def teardown(self, function: F, /) -> F: ...

    def teardown(self, *what: Any) -> Any:
        """Run a function at the end of each handler's call, whatever failed, in reverse order of declaration.

        Its parameter `error` is the exception that made the call fail; None where there was none, or where an
        error handler has answered it. What a teardown raises is logged, and changes nothing.
        """
        return _around(self.teardowns, "teardown", what)

    def errorhandler(self, *errors: type[Exception]) -> Callable[[F], F]:
        """Answer where a handler, or a `before`, raises one of `errors`: return `respond(…)` or raise Reject.

        The most special class wins. Its parameter `error` is the exception. One that returns nothing lets the
        request go on. Reject is an answer, and no error.
        """
        where = source_of_decorator()
        if not errors or any(not _is_handled(error) for error in errors):
            written = ", ".join(getattr(error, "__name__", repr(error)) for error in errors)
            raise HandlerError(
                f"{where}: @app.errorhandler({written}). Expected: classes of exceptions, and not Reject"
            )

        def declare(function: F) -> F:
            _refuse_no_function(function, "@app.errorhandler", where)
            self.error_handlers.append(ErrorHandlerDeclaration(function, errors, source_of(function)))
            return function

        return declare

    def __getattr__(self, name: str) -> Any:
        if (ours := _FLASKS.get(name)) is not None:
            raise AttributeError(f"App has no {name}. Expected: app.{ours}")
        raise AttributeError(f"App has no {name}")


#: What users of Flask write first.
_FLASKS = {
    "before_request": "before",
    "after_request": "after",
    "teardown_request": "teardown",
    "teardown_appcontext": "resource, whose code after the yield runs at the end",
    "register_error_handler": "errorhandler",
    "before_first_request": "resource",
    "route": "nothing: a gateway, or a chain around a web app, names handlers; declare them with @Pre",
}


def _is_handled(error: object) -> bool:
    return isinstance(error, type) and issubclass(error, Exception) and not issubclass(error, Reject)


def _around(declared: list[AroundDeclaration], name: str, what: tuple[Any, ...]) -> Any:
    where = source_of_decorator()

    def declare(function: F, moments: frozenset[HookType] = ALL_MOMENTS) -> F:
        _refuse_no_function(function, f"@app.{name}", where)
        declared.append(AroundDeclaration(function, moments, source_of(function)))
        return function

    moments = [moment_of(each) for each in what]
    if len(what) == 1 and moments[0] is None:
        return declare(what[0])
    found = frozenset(moment for moment in moments if moment is not None)
    if not what or len(found) < len(set(what)):
        raise HandlerError(
            f"{where}: @app.{name}{what!r}. Expected: moments, as Pre, or none and no brackets"
        )
    return lambda function: declare(function, found)


def _refuse_no_function(function: object, decorator: str, where: Source) -> None:
    if isinstance(function, type) or not callable(function):
        raise HandlerError(f"{where}: {decorator} is on {function!r}. Expected: a function")
    signature(function, where)
    if decorator != "@app.resource" and (
        inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    ):
        raise HandlerError(f"{where}: {describe(function)} yields. Expected: a function that returns")


def _no_config(name: str) -> Mapping[str, Any]:
    return {}


#: Gives the settings of the App of a name, while a folder is loaded.
_configs: ContextVar[Callable[[str], Mapping[str, Any]]] = ContextVar(
    "coprocess_app_config", default=_no_config
)


@contextmanager
def configuring(config_of: Callable[[str], Mapping[str, Any]]) -> Iterator[None]:
    """Apps that are made within get what `config_of` gives for their names."""
    token = _configs.set(config_of)
    try:
        yield
    finally:
        _configs.reset(token)
