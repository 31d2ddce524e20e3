"""From declarations to hooks."""

from __future__ import annotations

from coprocess.api.declarations import Declaration
from coprocess.api.functions import is_async
from coprocess.loading.hooks import Hook
from coprocess.loading.plan import native_plan


def hooks_of(declaration: Declaration, bundle: frozenset[str] = frozenset(), version: str = "") -> list[Hook]:
    """The hooks that a declaration makes. Raises HandlerError, naming file, line and what was expected."""
    make_plan, misfits = declaration.plan or native_plan, declaration.misfits
    plans = {
        hook_type: make_plan(declaration.function, hook_type, declaration.source)
        for hook_type in declaration.types
    }
    return [
        Hook(
            type=hook_type,
            name=declaration.name,
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
            version=version,
        )
        for hook_type, plan in plans.items()
    ]
