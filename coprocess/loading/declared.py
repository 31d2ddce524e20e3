"""From declarations to hooks."""

from __future__ import annotations

from coprocess.api.declarations import Declaration
from coprocess.api.functions import is_async
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
