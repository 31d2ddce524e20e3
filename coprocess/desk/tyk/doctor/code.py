"""Rules on the handlers' source: read, not run."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from coprocess.api.moments import HookType
from coprocess.desk.findings import FileFinding
from coprocess.desk.tyk.doctor.answers import check_answers
from coprocess.desk.tyk.doctor.blocking import check_blocking
from coprocess.desk.tyk.doctor.edits import check_edits
from coprocess.desk.tyk.doctor.project import Project
from coprocess.desk.tyk.doctor.source import Handler, find_function
from coprocess.desk.tyk.doctor.tokens import check_token
from coprocess.loading.hooks import Hook


def check_code(project: Project) -> Iterator[FileFinding]:
    """What the handlers' code does that will not have its effect."""
    uses = [use for api in project.apis for use in project.hooks_of(api)]
    uses += [use for bundle in project.bundles for use in bundle.hooks]
    yield from check_handlers(project.loaded.table, {(use.type, use.name.text()) for use in uses})


def check_handlers(hooks: Iterable[Hook], named: Collection[tuple[HookType, str]]) -> Iterator[FileFinding]:
    """The same for these hooks; `named`: those that definitions or manifests name."""
    for handler in _handlers(hooks, named):
        if HookType.Event not in handler.types:
            yield from check_edits(handler)
            yield from check_answers(handler)
            yield from check_token(handler)
        if handler.hook.is_async:
            yield from check_blocking(handler)


def _handlers(hooks: Iterable[Hook], named: Collection[tuple[HookType, str]]) -> list[Handler]:
    modules: dict[Path, ast.Module | None] = {}
    handlers: dict[int, Handler] = {}
    for hook in hooks:
        handler = handlers.get(id(hook.handler))
        if handler is None:
            path = hook.source.path
            if path not in modules:
                modules[path] = _parsed(path)
            module = modules[path]
            node = find_function(module, hook.source.line) if module else None
            if module is None or node is None:  # A lambda, or made by a call.
                continue
            handler = handlers[id(hook.handler)] = Handler(hook, module, node)
        # @Hook says nothing of the moment: it is where definitions name it.
        if not hook.any_type or (hook.type, hook.name) in named:
            handler.types.add(hook.type)
    return list(handlers.values())


def _parsed(path: Path) -> ast.Module | None:
    try:
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None
