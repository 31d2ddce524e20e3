"""Handlers that are given as objects: decorated functions, and modules that are imported already."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import Any

from coprocess.api.app import App
from coprocess.api.declarations import MARK, Declaration
from coprocess.errors import HandlerError
from coprocess.loading.declared import hooks_of
from coprocess.loading.home import Home
from coprocess.loading.hooks import HookTable
from coprocess.loading.lifecycle import Lifecycle
from coprocess.loading.loaded import Loaded
from coprocess.loading.loader import same_only_once


def load_objects(objects: Iterable[Any], home: Home) -> Loaded:
    """The handlers among `objects`: functions, modules, and an App of which they are.

    Raises HandlerError for the first that is none, or is declared wrongly.
    """
    declarations: list[Declaration] = []
    apps: list[App] = []
    for each in objects:
        found, its_apps = _in_module(each) if isinstance(each, ModuleType) else _in_object(each)
        declarations += found
        apps += its_apps
    apps = list(dict.fromkeys(apps))
    if len(apps) > 1:
        raise HandlerError(
            f"{apps[1].source}: a second App; the first is at {apps[0].source}. Expected: one for all"
        )
    lifecycles = [Lifecycle(app, home) for app in apps]
    lifecycle = lifecycles[0] if lifecycles else None
    hooks = [
        hook
        for declaration in dict.fromkeys(declarations)
        for hook in hooks_of(declaration, lifecycle=lifecycle, home=home)
    ]
    return Loaded(HookTable(same_only_once(hooks)), lifecycles=lifecycles)


def _in_module(module: ModuleType) -> tuple[list[Declaration], list[App]]:
    values = list(vars(module).values())
    # An App that the module only imported is another's.
    apps = [each for each in values if isinstance(each, App) and each.namespace is vars(module)]
    return [mark for each in values for mark in _marks(each)], apps


def _in_object(each: Any) -> tuple[list[Declaration], list[App]]:
    if isinstance(each, App):
        return [], [each]
    found = _marks(each)
    if not found:
        raise HandlerError(
            f"{each!r} declares no handler. Expected: a function with a decorator such as @Pre, a module "
            "with some, an App, or the path of a folder"
        )
    return found, []


def _marks(each: Any) -> list[Declaration]:
    try:
        marks = vars(each).get(MARK, ())
    except TypeError:
        return []
    return list(marks) if isinstance(marks, list) else []
