"""A plugin as its file has it: the class with its phases, and what Kong is told of it."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from types import AsyncGeneratorType, FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any, Final, TypeGuard

from coprocess.api.context import current_call
from coprocess.api.declarations import Limits
from coprocess.api.functions import Source, is_async, source_of
from coprocess.bounded import form_of, repr_of
from coprocess.errors import HandlerError, HandlerFailed
from coprocess.gateways.kong.awaited import AwaitedCalls
from coprocess.gateways.kong.event import Event
from coprocess.gateways.kong.instances import Instance
from coprocess.gateways.kong.overdue import MOST_TIMEOUT_S
from coprocess.gateways.kong.pdk import kong_class
from coprocess.gateways.kong.phases import PLUGIN_PHASES, Phase
from coprocess.gateways.kong.plugin_file import name_in, parsed, started_with
from coprocess.gateways.kong.schema import schema_problems
from coprocess.gateways.kong.telling import async_telling, telling
from coprocess.gateways.kong.turns import EventEnded
from coprocess.gateways.kong.unpacked import unpacked_calls
from coprocess.loading.hooks import Hook, Plan
from coprocess.loading.plan import refuse_generator
from coprocess.runtime import unawaited

#: Kong runs them in its own process only: where it is told of one, requests die. So it is told of none.
_KONGS_OWN: Final = ("init_worker", "header_filter", "body_filter", "configure")
_VERSION: Final = re.compile(r"\d+\.\d+\.\d+(\.\d+)?([-+].*)?")
#: Where a file says none: without one, Kong does not start.
_DEFAULT_VERSION: Final = "0.0.0"
#: That are told of one schema.
_MOST_PROBLEMS: Final = 5
#: What a module calls what may be passed to start_dedicated_server.
_NAMES: Final = {"plugin": "Plugin", "version": "version", "priority": "priority", "schema": "Schema"}
#: Of what a phase returns, that are looked at.
_MOST_PARTS: Final = 1000
#: Beside what can be awaited: code that is yet to run, or runs beside the phase.
_CODE: Final = (
    *(GeneratorType, AsyncGeneratorType, map, filter),
    *(FunctionType, MethodType, partial, Future),
)


@dataclass(frozen=True, slots=True)
class PluginOptions:
    """What the command line says of plugins."""

    #: Instead of what the file says, or its own name.
    name: str | None = None
    #: Whether the files are those of a folder. There a plugin is called as its file, and its module's names
    #: count, as kong-pdk has it: many files pass the name of the example that they were copied from.
    of_folder: bool = False
    #: Whether PDK calls give (value, err); else they give the value, and raise.
    lua_style: bool = True
    on_error: str | None = None
    #: Whether failures, and what is logged from warnings on, stand in Kong's own log at their levels, too:
    #: what the server itself logs is info there.
    tells_kong: bool = False
    #: What takes secrets out of that.
    redact: Callable[[str], str] = str


@dataclass(frozen=True, slots=True)
class Plugin:
    name: str
    plugin_class: type
    path: Path
    version: str = _DEFAULT_VERSION
    priority: int = 0
    #: The fields of its configuration, as Kong's schemas have them.
    schema: list[Any] = field(default_factory=list)
    limits: Limits = field(default_factory=Limits)
    #: As of PluginOptions.
    tells_kong: bool = False
    redact: Callable[[str], str] = str

    @property
    def phases(self) -> list[Phase]:
        return [phase for phase in PLUGIN_PHASES if hasattr(self.plugin_class, phase.name)]

    @property
    def never_run(self) -> list[str]:
        """Methods that are named as phases of Lua's plugins, each with what is to be said of it."""
        return [
            f"{self.path}: {self.plugin_class.__name__}.{name}: Kong runs this phase in itself only"
            for name in _KONGS_OWN
            if hasattr(self.plugin_class, name)
        ]

    def info(self) -> dict[str, Any]:
        """What Kong asks with the query command."""
        return {
            "Name": self.name,
            "Phases": [phase.name for phase in self.phases],
            "Priority": self.priority,
            "Version": self.version,
            "Schema": {
                "name": self.name,
                "fields": [{"config": {"type": "record", "fields": self.schema}}],
            },
        }

    def hooks(self, *, lua_style: bool) -> list[Hook]:
        return [self._start_hook(), *(self._hook(phase, lua_style) for phase in self.phases)]

    def _start_hook(self) -> Hook:
        plugin_class = self.plugin_class

        def start(call: Any) -> None:
            call.instance.object_of(plugin_class)

        return self._made(Phase.start, plugin_class, start, Plan(lambda call: (call,), _ignore), False)

    def _hook(self, phase: Phase, lua_style: bool) -> Hook:
        method = getattr(self.plugin_class, phase.name)
        runs_async = is_async(method)
        source = _source(method, self.path)
        _expect_one_argument(self.plugin_class, phase.name, source)
        refuse_generator(method, source)
        style = "async" if runs_async else "lua" if lua_style else "python"
        made: Callable[..., Any] = (_async_phase if runs_async else _phase)(
            self.plugin_class, phase.name, kong_class(style)
        )
        if self.tells_kong:
            made = (async_telling if runs_async else telling)(made, self.name, phase.name, self.redact)
        return self._made(
            phase,
            method,
            made,
            Plan(lambda call: (call.instance, call.event), _ignore),
            runs_async,
        )

    def _made(
        self, phase: Phase, written: Any, function: Callable[..., Any], plan: Plan, runs_async: bool
    ) -> Hook:
        return Hook(
            type=phase.as_hook_type,
            name=self.name,
            handler=written,
            function=function,
            plan=plan,
            is_async=runs_async,
            style="kong",
            source=_source(written, self.path),
            limits=self.limits,
        )


def _phase(plugin_class: type, name: str, kong: Callable[[Any], Any]) -> Callable[..., None]:
    def run(instance: Instance, event: Event) -> None:
        try:
            made = instance.made
            if made is None or made[0] is not plugin_class:
                made = instance.make(plugin_class)
            result = getattr(made[1], name)(kong((event.ask,)))
        except EventEnded:
            _expect_over(event)
        else:
            if result is not None:
                _expect_run(result)
                result = None  # So that what is in it is thrown away now.
            if unawaited.has_any:
                unawaited.expect_awaited(current_call.get())

    return run


def _async_phase(plugin_class: type, name: str, kong: Callable[[Any], Any]) -> Callable[..., Any]:
    async def run(instance: Any, event: Event) -> None:
        from coprocess.gateways.kong.async_steps import settled

        calls = AwaitedCalls(event.ask_async)
        try:
            try:
                result = await getattr(instance.object_of(plugin_class), name)(kong((calls,)))
                await calls.expect_begun()
                _expect_run(result)
                result = None  # As above.
                unawaited.expect_awaited(current_call.get())
            finally:
                calls.close()
                if event.is_asking:
                    event.close_to_others()
                    await settled(event)
        except EventEnded:
            _expect_over(event)

    return run


def _ignore(call: Any, result: Any) -> None:
    """What a phase returns means nothing, as with kong-pdk."""


def _expect_over(event: Event) -> None:
    """Raises HandlerFailed where code was ended, and not by its own event: it would have done more."""
    if not event.is_over:
        raise HandlerFailed(
            "failed: it asked the kong of a request that has ended. Expected: the kong that the phase is "
            "called with, and not one that was kept"
        )


def _expect_run(result: Any) -> None:
    """Raises HandlerFailed where a phase returned code, as of a check, that nobody will run."""
    found = False
    for each in _parts(result):
        if not (inspect.isawaitable(each) or isinstance(each, _CODE)):
            continue
        found = True
        if inspect.iscoroutine(each):
            each.close()
    if found:
        raise HandlerFailed(
            f"failed: it returned {form_of(result)}, whose code nobody runs. Expected: a phase that runs all "
            "of it, as async def with await (a decorator around one should use functools.wraps)"
        )


def _parts(result: Any) -> Iterator[Any]:
    """`result` and what is in it, as far as that goes."""
    left = deque([result])
    for _ in range(_MOST_PARTS):
        if not left:
            return
        each = left.popleft()
        yield each
        if isinstance(each, dict):
            each = each.values()
        elif not isinstance(each, list | tuple | set | frozenset):
            continue
        left.extend(islice(each, _MOST_PARTS))


def _expect_one_argument(plugin_class: type, name: str, source: Source) -> None:
    """Raises HandlerError where the phase cannot be called with `kong` alone."""
    written = inspect.getattr_static(plugin_class, name)
    # An object that can be called is called as it is.
    is_bound = hasattr(type(written), "__get__") and not isinstance(written, staticmethod)
    bound = (None,) if is_bound else ()
    method = getattr(plugin_class, name)
    bound = () if isinstance(written, classmethod) else bound
    try:
        inspect.signature(method).bind(*bound, None)
    except (TypeError, ValueError) as error:
        raise HandlerError(
            f"{source}: {plugin_class.__name__}.{name} cannot be called with kong: {error}. "
            f"Expected: def {name}(self, kong)"
        ) from None


def _source(written: Any, path: Path) -> Source:
    if isinstance(written, type):
        try:
            return Source(path, inspect.getsourcelines(written)[1])
        except (OSError, TypeError):
            return Source(path, 1)
    found = source_of(written)
    # What is no function is written somewhere in the file.
    return found if found.line else Source(path, 1)


def plugin_of(module: ModuleType, path: Path, options: PluginOptions) -> Plugin:
    """The plugin in a module that has been loaded from `path`.

    What the module passes to kong-pdk's start_dedicated_server counts first, then the names Plugin, version,
    priority and Schema; in a folder the other way round. Raises HandlerError.
    """
    _take_main_block(module, path)
    names = vars(module)
    said = {key: names[name] for key, name in _NAMES.items() if name in names}
    if options.of_folder and "plugin" in said:
        said = {**started_with(path, names), **said, "name": path.stem}
    else:
        said |= started_with(path, names)
    plugin_class = said.get("plugin")
    if not isinstance(plugin_class, type):
        raise HandlerError(
            f"{path}: {_has(plugin_class, 'Plugin')}. Expected: class Plugin, with a phase as access"
        )
    name = options.name or said.get("name") or name_in(path)
    plugin = Plugin(
        name=_text(name, f"{path}: the plugin's name"),
        plugin_class=plugin_class,
        path=path,
        version=_version(said.get("version"), path),
        priority=_priority(said.get("priority", 0), path),
        schema=_schema(said.get("schema", []), path),
        limits=_limits(plugin_class, names, path, options),
        tells_kong=options.tells_kong,
        redact=options.redact,
    )
    _expect_values(path)
    if not plugin.phases and plugin.never_run:
        raise HandlerError(
            f"{plugin.never_run[0]}. Expected: any of {', '.join(each.name for each in PLUGIN_PHASES)}"
        )
    if not plugin.phases:
        raise HandlerError(
            f"{path}: {plugin_class.__name__} has no phase: Kong would never run it. Expected: any of "
            f"{', '.join(each.name for each in PLUGIN_PHASES)}"
        )
    return plugin


def _expect_values(path: Path) -> None:
    """Raises HandlerError where an async phase takes a value for (value, err)."""
    if (tree := parsed(path)) is None:
        return
    for name, line in unpacked_calls(tree):
        raise HandlerError(
            f"{path}:{line}: {name} is unpacked. In an async phase it gives the value alone, and raises. "
            f"Expected: value = await {name}(…)"
        )


def _take_main_block(module: ModuleType, path: Path) -> None:
    """Where the file is run itself: what it sets only then, before it starts the server, is its module's.

    Many plugins connect to what they need there.
    """
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if main is None or main is module or file is None or Path(file).resolve() != path.resolve():
        return
    for name, value in vars(main).items():
        vars(module).setdefault(name, value)


def _has(value: Any, name: str) -> str:
    return f"there is no {name}" if value is None else f"{name} is {repr_of(value, 60)}, and no class"


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise HandlerError(f"{what}: {repr_of(value, 60)}. Expected: text")
    return value


def is_version(value: Any) -> TypeGuard[str]:
    """Whether Kong starts with it."""
    return isinstance(value, str) and _VERSION.fullmatch(value) is not None


def _version(value: Any, path: Path) -> str:
    if value is None:
        return _DEFAULT_VERSION
    if not is_version(value):
        raise HandlerError(
            f"{path}: version is {repr_of(value, 60)}, with which Kong does not start. Expected: text as "
            '"1.0.0"'
        )
    return value


def _priority(value: Any, path: Path) -> int:
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise HandlerError(
            f"{path}: priority is {repr_of(value, 60)}, with which Kong does not start. Expected: a whole "
            "number"
        )
    return value


def _schema(value: Any, path: Path) -> list[Any]:
    if isinstance(value, dict) and not value:
        value = []
    if not isinstance(value, list | tuple):
        raise HandlerError(
            f"{path}: Schema is {repr_of(value, 60)}. Expected: a list or tuple of fields, as "
            '({"message": {"type": "string"}},)'
        )
    try:
        fields: list[Any] = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise HandlerError(f"{path}: Schema cannot be told to Kong as JSON: {error}") from None
    for each in fields:
        if not isinstance(each, dict) or len(each) != 1:
            raise HandlerError(
                f"{path}: Schema has {repr_of(each, 60)}. Expected: fields of one name each, as "
                '{"message": {"type": "string"}}'
            )
    if problems := list(schema_problems(fields)):
        raise HandlerError(f"{path}: {'; '.join(problems[:_MOST_PROBLEMS])}. Kong does not start with that")
    return fields


def _limits(plugin_class: type, names: dict[str, Any], path: Path, options: PluginOptions) -> Limits:
    def said(name: str) -> Any:
        return names.get(name)

    on_error, timeout_s = options.on_error or said("on_error"), said("timeout_s")
    if on_error not in (None, "open", "closed"):
        raise HandlerError(f"{path}: on_error is {repr_of(on_error, 60)}. Expected: open or closed")
    if timeout_s is not None and (
        isinstance(timeout_s, bool)
        or not isinstance(timeout_s, int | float)
        or not 0 < timeout_s <= MOST_TIMEOUT_S
    ):
        raise HandlerError(
            f"{path}: timeout_s is {repr_of(timeout_s, 60)}. Expected: seconds, more than 0, and no more "
            f"than {MOST_TIMEOUT_S:g}: Kong lets a request by for which it has waited 60 s"
        )
    return Limits(on_error=on_error, timeout_s=timeout_s)
