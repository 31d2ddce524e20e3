"""From declarations to hooks, and the declarations of a folder's modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from types import ModuleType
from typing import Any

from coprocess.api.declarations import MARK, Declaration
from coprocess.api.functions import bare_wraps, is_async
from coprocess.api.moments import HookType
from coprocess.loading.home import ANYWHERE, Home
from coprocess.loading.hooks import Hook, Plan
from coprocess.loading.lifecycle import Lifecycle
from coprocess.loading.plan import native_plan


def hooks_of(
    declaration: Declaration,
    bundle: frozenset[str] = frozenset(),
    version: str = "",
    lifecycle: Lifecycle | None = None,
    home: Home = ANYWHERE,
) -> list[Hook]:
    """The hooks that a declaration makes, with what an App declares around them.

    Raises HandlerError, naming file, line and what was expected.
    """
    misfits = declaration.misfits
    plans = {hook_type: _plan(declaration, hook_type, lifecycle, home) for hook_type in declaration.types}
    hooks = [
        Hook(
            type=hook_type,
            name=declaration.name,
            handler=declaration.function,
            function=plan.function or declaration.function,
            plan=plan,
            is_async=is_async(declaration.function),
            style=declaration.style,
            source=declaration.source,
            api_id=declaration.api_id,
            bundle=bundle,
            any_type=hook_type in misfits or len(declaration.types) - len(misfits) > 1,
            misfit=hook_type in misfits,
            limits=declaration.limits,
            order=declaration.order,
            body=declaration.body,
            version=version,
        )
        for hook_type, plan in plans.items()
    ]
    return hooks if lifecycle is None else [lifecycle.around(hook) for hook in hooks]


def _plan(declaration: Declaration, hook_type: HookType, lifecycle: Lifecycle | None, home: Home) -> Plan:
    function, source = declaration.function, declaration.source
    if declaration.plan is not None:
        plan: Plan = declaration.plan(function, hook_type, source)
        return plan
    resources = () if lifecycle is None else lifecycle.resources.all
    return native_plan(function, hook_type, source, home, resources)


def outermost(declaration: Declaration) -> Declaration:
    """`declaration`, of the function with the decorators that stand above the one that declared it.

    Else a check that a user wrapped around a handler would silently not run.
    """
    function = declaration.function
    bound = declaration.namespace.get(getattr(function, "__name__", ""))
    if bound is None or bound is function or not _wraps(bound, function):
        return declaration
    return replace(declaration, function=bound)


def _wraps(outer: Any, inner: Callable[..., Any]) -> bool:
    """Whether `outer` is a wrapper of `inner`, made with functools.wraps or, where that shows, without."""
    seen: list[Any] = []
    while outer is not None and not any(outer is each for each in seen):
        seen.append(outer)
        if outer is inner:
            return True
        if (wrapped := bare_wraps(outer)) is not None:
            outer = wrapped
            continue
        cells = getattr(outer, "__closure__", None) or ()
        wrapped = getattr(outer, "__wrapped__", None)
        if wrapped is None:
            return any(_content(cell) is inner for cell in cells)
        outer = wrapped
    return False


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # Empty.
        return None


def marked(modules: Iterable[ModuleType]) -> Iterable[Declaration]:
    """Declarations of functions that a module has but did not define, as from a library."""
    for module in modules:
        for value in list(vars(module).values()):
            try:
                marks = vars(value).get(MARK, ())
            except TypeError:
                continue
            yield from marks if isinstance(marks, list) else ()
